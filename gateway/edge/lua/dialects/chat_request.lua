-- Makes OpenAI's chat request of a request for Anthropic's Messages.

local COPIED = { "model", "max_tokens", "temperature", "top_p", "top_k", "stream" }
-- Hints to Anthropic's own servers that change no answer.
local HINTS = { cache_control = true, service_tier = true, inference_geo = true }
local CHOICES = { auto = '"auto"', any = '"required"', none = '"none"' }
local READ = {
  messages = true, system = true, stop_sequences = true, metadata = true, tools = true, tool_choice = true, output_config = true,
  output_format = true, thinking = true,
}
for _, name in ipairs(COPIED) do READ[name] = true end

local function kind_of(block)
  return is_string(block["type"]) and decoded(block["type"]) or "?"
end

local function image_part(block)
  local source = object(block["source"]) or {}
  local url = source["url"]
  if kind_of(source) == "base64" and is_string(source["media_type"]) and is_string(source["data"]) then
    url = joined({ '"data:"', source["media_type"], '";base64,"', source["data"] }, "")
  end
  if not is_string(url) then refuse_field("messages", "an image's source must be base64 or a URL") end
  return '{"type":"image_url","image_url":{"url":' .. url .. "}}"
end

local function text_of(block)
  if not is_string(block["text"]) then refuse_field("messages", "a block of text has no 'text'") end
  return block["text"]
end

-- The texts and the other parts of a content that is a string or a list of blocks.
local function read_content(content, where, parts)
  if is_string(content) then return { content } end
  local texts = {}
  for _, each in ipairs(given(content) and list(content) or {}) do
    local block = object(each) or {}
    local kind = kind_of(block)
    if kind == "text" then
      texts[#texts + 1] = text_of(block)
    elseif kind == "image" and parts then
      parts[#parts + 1] = image_part(block)
    else
      refuse_field("messages", "there is no content of type '" .. kind .. "' in " .. where .. " for the models here")
    end
  end
  return texts
end

local function tool_result(block, parts)
  local texts = read_content(block["content"], "results of tools", parts)
  if block["is_error"] == "true" then table.insert(texts, 1, '"Error:"') end
  if not is_string(block["tool_use_id"]) then refuse_field("messages", "a tool's result has no 'tool_use_id'") end
  return '{"role":"tool","tool_call_id":' .. block["tool_use_id"] .. ',"content":' .. joined(texts, "\\n") .. "}"
end

local function add_user(written, blocks)
  local parts, texts, only_text = {}, {}, true
  for _, each in ipairs(blocks) do
    local block = object(each) or {}
    local kind = kind_of(block)
    if kind == "tool_result" then
      written[#written + 1] = tool_result(block, parts)
    elseif kind == "text" then
      texts[#texts + 1] = text_of(block)
      parts[#parts + 1] = '{"type":"text","text":' .. texts[#texts] .. "}"
    elseif kind == "image" then
      parts[#parts + 1] = image_part(block)
    else
      refuse_field("messages", "there is no content of type '" .. kind .. "' for the models here")
    end
  end
  only_text = #parts == #texts
  if #parts == 0 then return end
  local content = only_text and joined(texts, "\\n") or "[" .. table.concat(parts, ",") .. "]"
  written[#written + 1] = '{"role":"user","content":' .. content .. "}"
end

local function add_assistant(written, blocks)
  local texts, calls = {}, {}
  for _, each in ipairs(blocks) do
    local block = object(each) or {}
    local kind = kind_of(block)
    if kind == "text" then
      texts[#texts + 1] = text_of(block)
    elseif kind == "tool_use" and is_string(block["id"]) and is_string(block["name"]) then
      calls[#calls + 1] = '{"id":' .. block["id"] .. ',"type":"function","function":{"name":' .. block["name"]
        .. ',"arguments":' .. quoted(block["input"] or "{}") .. "}}"
    elseif kind ~= "thinking" and kind ~= "redacted_thinking" then
      -- Thoughts are signed by who thought them, and mean nothing to others.
      refuse_field("messages", "there is no content of type '" .. kind .. "' in answers for the models here")
    end
  end
  local message = '{"role":"assistant","content":' .. (#texts > 0 and joined(texts, "\\n") or "null")
  if #calls > 0 then message = message .. ',"tool_calls":[' .. table.concat(calls, ",") .. "]" end
  written[#written + 1] = message .. "}"
end

local function chat_messages(asked)
  local written = {}
  if given(asked["system"]) then
    local texts = read_content(asked["system"], "the system's words")
    if #texts > 0 then written[1] = '{"role":"system","content":' .. joined(texts, "\\n\\n") .. "}" end
  end
  for _, each in ipairs(list(asked["messages"]) or {}) do
    local message = object(each) or {}
    local role, content = is_string(message["role"]) and decoded(message["role"]) or "?", message["content"]
    local blocks = list(content)
    if role == "assistant" and blocks then
      add_assistant(written, blocks)
    elseif role == "user" and blocks then
      add_user(written, blocks)
    elseif role == "user" or role == "assistant" or role == "system" then
      if not is_string(content) then content = joined(read_content(content, "messages"), "\\n") end
      written[#written + 1] = '{"role":' .. quoted(role) .. ',"content":' .. content .. "}"
    else
      refuse_field("messages", "there is no role '" .. role .. "'")
    end
  end
  return "[" .. table.concat(written, ",") .. "]"
end

local function chat_tools(text)
  local written = {}
  for _, each in ipairs(list(text) or {}) do
    local tool = object(each) or {}
    if given(tool["type"]) and tool["type"] ~= '"custom"' then
      refuse_field("tools", "a tool of type " .. decoded(tool["type"]) .. " runs at Anthropic alone; describe one of your own")
    end
    if not is_string(tool["name"]) then refuse_field("tools", "a tool has no 'name'") end
    local described = given(tool["description"]) and ',"description":' .. tool["description"] or ""
    local strict = given(tool["strict"]) and ',"strict":' .. tool["strict"] or ""
    written[#written + 1] = '{"type":"function","function":{"name":' .. tool["name"] .. described .. strict
      .. ',"parameters":' .. (tool["input_schema"] or '{"type":"object"}') .. "}}"
  end
  return "[" .. table.concat(written, ",") .. "]"
end

local function add_tool_choice(add, text)
  local choice = object(text) or {}
  local kind = kind_of(choice)
  if kind == "tool" and is_string(choice["name"]) then
    add("tool_choice", '{"type":"function","function":{"name":' .. choice["name"] .. "}}")
  else
    add("tool_choice", CHOICES[kind] or refuse_field("tool_choice"))
  end
  if choice["disable_parallel_tool_use"] == "true" then add("parallel_tool_calls", "false") end
end

local function add_output(add, asked)
  local output = given(asked["output_config"]) and object(asked["output_config"]) or {}
  if given(output["effort"]) then add("reasoning_effort", output["effort"]) end
  local format = object(output["format"]) or object(asked["output_format"])
  if not format then return end
  if kind_of(format) ~= "json_schema" or not format["schema"] then refuse_field("output_config") end
  add("response_format", '{"type":"json_schema","json_schema":{"name":"answer","strict":true,"schema":' .. format["schema"] .. "}}")
end

local function check_fields(asked)
  for name, value in pairs(asked) do
    if not READ[name] and not HINTS[name] and given(value) then refuse_field(name) end
  end
  if given(asked["thinking"]) and kind_of(object(asked["thinking"]) or {}) ~= "disabled" then refuse_field("thinking") end
end

-- The chat request; nil where the text is no JSON object. Raises {param, message}.
local function chat_request(text)
  local asked = object(text)
  if not asked then return nil end
  check_fields(asked)
  local written = {}
  local function add(name, value) written[#written + 1] = '"' .. name .. '":' .. value end
  for _, name in ipairs(COPIED) do
    if given(asked[name]) then add(name, asked[name]) end
  end
  add("messages", chat_messages(asked))
  if asked["stream"] == "true" then add("stream_options", '{"include_usage":true}') end
  if given(asked["stop_sequences"]) and #(list(asked["stop_sequences"]) or {}) > 0 then add("stop", asked["stop_sequences"]) end
  local about = given(asked["metadata"]) and object(asked["metadata"]) or {}
  if given(about["user_id"]) then add("user", about["user_id"]) end
  if given(asked["tools"]) and #(list(asked["tools"]) or {}) > 0 then
    add("tools", chat_tools(asked["tools"]))
    if given(asked["tool_choice"]) then add_tool_choice(add, asked["tool_choice"]) end
  end
  add_output(add, asked)
  return "{" .. table.concat(written, ",") .. "}"
end
