-- Makes a request for Anthropic's Messages of OpenAI's chat request.

local DEFAULT_MAX_TOKENS = "4096"
local COPIED = { "model", "temperature", "top_p", "top_k", "stream" }
-- What Anthropic has no word for, and the values that change nothing.
local HARMLESS = {
  n = { ["1"] = true }, logprobs = { ["false"] = true }, presence_penalty = { ["0"] = true, ["0.0"] = true },
  frequency_penalty = { ["0"] = true, ["0.0"] = true }, logit_bias = { ["{}"] = true }, top_logprobs = { ["0"] = true },
  store = { ["false"] = true }, modalities = { ['["text"]'] = true },
}
-- Hints to OpenAI's own servers that change no answer.
local HINTS = { metadata = true, service_tier = true, prompt_cache_key = true, safety_identifier = true, prompt_cache_retention = true }
local CHOICES = { auto = "auto", required = "any", none = "none" }
local READ = {
  messages = true, max_tokens = true, max_completion_tokens = true, stop = true, stream_options = true, tools = true,
  tool_choice = true, parallel_tool_calls = true, response_format = true, user = true, reasoning_effort = true,
}
for _, name in ipairs(COPIED) do READ[name] = true end

local function word(text)
  return is_string(text) and decoded(text) or "?"
end

local function source_of(url)
  local kind, bytes = string.match(url, "^data:([^;,]+);base64,(.*)$")
  if kind then return '{"type":"base64","media_type":' .. quoted(kind) .. ',"data":' .. quoted(bytes) .. "}" end
  return '{"type":"url","url":' .. quoted(url) .. "}"
end

-- Anthropic's blocks of a content that is a string or a list of parts. Anthropic refuses empty texts.
local function blocks_of(content, where)
  local blocks = {}
  local function add_text(text)
    if says(text) then blocks[#blocks + 1] = '{"type":"text","text":' .. text .. "}" end
  end
  if is_string(content) then add_text(content) end
  for _, each in ipairs(given(content) and list(content) or {}) do
    local part = object(each) or {}
    local kind = word(part["type"])
    if kind == "text" or kind == "refusal" then
      add_text(part[kind])
    elseif kind == "image_url" and where == "user" then
      local image = object(part["image_url"]) or {}
      if not is_string(image["url"]) then refuse_field("messages", "an image has no 'url'") end
      blocks[#blocks + 1] = '{"type":"image","source":' .. source_of(decoded(image["url"])) .. "}"
    else
      refuse_field("messages", "the target reads no content of type '" .. kind .. "' from " .. where)
    end
  end
  return blocks
end

local function call_block(text)
  local call = object(text) or {}
  local used = object(call["function"]) or {}
  if not is_string(used["name"]) then refuse_field("messages", "a call of a tool names no function") end
  local input = is_string(used["arguments"]) and decoded(used["arguments"]) or ""
  if not string.find(input, "%S") then input = "{}" end
  if not is_sound_object(input) then refuse_field("messages", "the arguments of a call of a tool are no JSON object") end
  return '{"type":"tool_use","id":' .. (call["id"] or '""') .. ',"name":' .. used["name"] .. ',"input":' .. input .. "}"
end

-- The system's words, and the turns: what follows each other in one role is one turn, as results of tools must be.
local function turns_of(messages)
  local system, turns = {}, {}
  local function add(role, blocks)
    local last = turns[#turns]
    if not last or last.role ~= role then
      last = { role = role, blocks = {} }
      turns[#turns + 1] = last
    end
    for _, block in ipairs(blocks) do last.blocks[#last.blocks + 1] = block end
  end
  for _, each in ipairs(messages) do
    local message = object(each) or {}
    local role = word(message["role"])
    if role == "system" or role == "developer" then
      for _, block in ipairs(blocks_of(message["content"], role)) do system[#system + 1] = block end
    elseif role == "user" then
      add("user", blocks_of(message["content"], "user"))
    elseif role == "assistant" then
      local blocks = blocks_of(message["content"], role)
      for _, call in ipairs(given(message["tool_calls"]) and list(message["tool_calls"]) or {}) do blocks[#blocks + 1] = call_block(call) end
      add("assistant", blocks)
    elseif role == "tool" then
      local content = "[" .. table.concat(blocks_of(message["content"], role), ",") .. "]"
      local result = '{"type":"tool_result","tool_use_id":' .. (message["tool_call_id"] or '""') .. ',"content":' .. content .. "}"
      add("user", { result })
    else
      refuse_field("messages", "the target knows no role '" .. role .. "'")
    end
  end
  return system, turns
end

local function messages_tools(text)
  local written = {}
  for _, each in ipairs(list(text) or {}) do
    local tool = object(each) or {}
    local used = object(tool["function"])
    if tool["type"] ~= '"function"' or not used then refuse_field("tools", "the target knows no tools but functions") end
    local described = given(used["description"]) and ',"description":' .. used["description"] or ""
    local strict = used["strict"] == "true" and ',"strict":true' or ""
    local schema = given(used["parameters"]) and used["parameters"] or '{"type":"object"}'
    written[#written + 1] = '{"name":' .. (used["name"] or '""') .. described .. strict .. ',"input_schema":' .. schema .. "}"
  end
  return "[" .. table.concat(written, ",") .. "]"
end

local function messages_choice(asked)
  local alone = asked["parallel_tool_calls"] == "false" and ',"disable_parallel_tool_use":true' or ""
  local choice = asked["tool_choice"]
  if not given(choice) then
    return alone ~= "" and '{"type":"auto"' .. alone .. "}" or nil
  end
  if is_string(choice) then
    local kind = CHOICES[word(choice)] or refuse_field("tool_choice")
    return '{"type":"' .. kind .. '"' .. (kind ~= "none" and alone or "") .. "}"
  end
  local used = object((object(choice) or {})["function"]) or {}
  if not is_string(used["name"]) then refuse_field("tool_choice") end
  return '{"type":"tool","name":' .. used["name"] .. alone .. "}"
end

local function output_of(asked)
  local parts = {}
  if given(asked["reasoning_effort"]) and asked["reasoning_effort"] ~= '"none"' then
    parts[#parts + 1] = '"effort":' .. asked["reasoning_effort"]
  end
  local format = object(asked["response_format"]) or {}
  local kind = given(format["type"]) and word(format["type"]) or "text"
  if kind == "json_schema" then
    local schema = (object(format["json_schema"]) or {})["schema"] or refuse_field("response_format.json_schema.schema")
    parts[#parts + 1] = '"format":{"type":"json_schema","schema":' .. schema .. "}"
  elseif kind ~= "text" then
    refuse_field("response_format.type")
  end
  return #parts > 0 and "{" .. table.concat(parts, ",") .. "}" or nil
end

local function check_fields(asked)
  for name, value in pairs(asked) do
    local harmless = READ[name] or HINTS[name] or not given(value) or (HARMLESS[name] or {})[(string.gsub(value, "%s", ""))]
    if not harmless then refuse_field(name) end
  end
end

-- The request and whether usage is asked for at a stream's end; nil where the text is no JSON object. Raises {param, message}.
local function messages_request(text)
  local asked = object(text)
  if not asked then return nil end
  check_fields(asked)
  local written = {}
  local function add(name, value)
    if given(value) then written[#written + 1] = '"' .. name .. '":' .. value end
  end
  for _, name in ipairs(COPIED) do add(name, asked[name]) end
  local most = given(asked["max_completion_tokens"]) and asked["max_completion_tokens"] or asked["max_tokens"]
  add("max_tokens", given(most) and most or DEFAULT_MAX_TOKENS)
  local system, turns = turns_of(list(asked["messages"]) or {})
  if #system > 0 then add("system", "[" .. table.concat(system, ",") .. "]") end
  local messages = {}
  for index, turn in ipairs(turns) do
    messages[index] = '{"role":"' .. turn.role .. '","content":[' .. table.concat(turn.blocks, ",") .. "]}"
  end
  add("messages", "[" .. table.concat(messages, ",") .. "]")
  local stop = asked["stop"]
  if given(stop) and stop ~= "[]" then add("stop_sequences", is_string(stop) and "[" .. stop .. "]" or stop) end
  if given(asked["user"]) then add("metadata", '{"user_id":' .. asked["user"] .. "}") end
  if given(asked["tools"]) and #(list(asked["tools"]) or {}) > 0 then
    add("tools", messages_tools(asked["tools"]))
    add("tool_choice", messages_choice(asked))
  end
  add("output_config", output_of(asked))
  local streamed = given(asked["stream_options"]) and object(asked["stream_options"]) or {}
  return "{" .. table.concat(written, ",") .. "}", streamed["include_usage"] == "true"
end
