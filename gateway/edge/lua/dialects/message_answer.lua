-- Makes Anthropic's message, stream of events or error of what OpenAI's chat answers.

local STOPS = {
  ['"stop"'] = '"end_turn"', ['"length"'] = '"max_tokens"', ['"tool_calls"'] = '"tool_use"', ['"function_call"'] = '"tool_use"',
  ['"content_filter"'] = '"refusal"',
}
local ERRORS = {
  [400] = "invalid_request_error", [401] = "authentication_error", [403] = "permission_error", [404] = "not_found_error",
  [413] = "request_too_large", [429] = "rate_limit_error", [503] = "overloaded_error", [504] = "timeout_error", [529] = "overloaded_error",
}

-- Why it ended, and at which of the request's stop sequences: engines that know name it in `stop_reason`.
local function stop_of(choice, called)
  local reason = STOPS[choice["finish_reason"]] or '"end_turn"'
  if called and reason == '"end_turn"' then reason = '"tool_use"' end
  if reason == '"end_turn"' and says(choice["stop_reason"]) then return '"stop_sequence"', choice["stop_reason"] end
  return reason, "null"
end

local function usage_of(text)
  local usage = text and object(text) or {}
  local details = object(usage["prompt_tokens_details"]) or {}
  local cached = number(details["cached_tokens"])
  local fresh = math.max(number(usage["prompt_tokens"]) - cached, 0)
  return string.format(
    '{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":%d,"output_tokens":%d}',
    fresh, cached, number(usage["completion_tokens"])
  )
end

-- A tool's input, which OpenAI writes as a string. One that is no JSON object is handed on as what it is.
local function input_of(arguments)
  local text = is_string(arguments) and decoded(arguments) or ""
  if not string.find(text, "%S") then return "{}" end
  return is_sound_object(text) and text or '{"INVALID_JSON":' .. quoted(text) .. "}"
end

local function opening(answer, usage)
  local id = says(answer["id"]) and answer["id"] or '"msg"'
  return '"id":' .. id .. ',"type":"message","role":"assistant","model":' .. (is_string(answer["model"]) and answer["model"] or '""')
    .. ',"usage":' .. usage
end

-- The message; nil where the text is no answer to a chat.
local function message_answer(text)
  local answer = object(text)
  local choices = answer and list(answer["choices"])
  local choice = choices and choices[1] and object(choices[1])
  local said = choice and object(choice["message"])
  if not said then return nil end
  local blocks, called = {}, false
  for _, name in ipairs({ "content", "refusal" }) do
    if says(said[name]) then blocks[#blocks + 1] = '{"type":"text","text":' .. said[name] .. "}" end
  end
  for _, each in ipairs(given(said["tool_calls"]) and list(said["tool_calls"]) or {}) do
    local call = object(each) or {}
    local used = object(call["function"]) or {}
    called = true
    blocks[#blocks + 1] = '{"type":"tool_use","id":' .. (call["id"] or '""') .. ',"name":' .. (used["name"] or '""')
      .. ',"input":' .. input_of(used["arguments"]) .. "}"
  end
  local reason, sequence = stop_of(choice, called)
  return "{" .. opening(answer, usage_of(answer["usage"])) .. ',"content":[' .. table.concat(blocks, ",") .. '],"stop_reason":'
    .. reason .. ',"stop_sequence":' .. sequence .. "}"
end

local function error_object(kind, message)
  return '{"type":"error","error":{"type":"' .. kind .. '","message":' .. message .. "}}"
end

-- The error; nil where the text is one of Anthropic's already.
local function message_error(text, status)
  local answer = object(text) or {}
  if answer["type"] == '"error"' then return nil end
  local fault = object(answer["error"]) or {}
  local message = is_string(fault["message"]) and fault["message"] or quoted(string.sub(text, 1, 1000))
  return error_object(ERRORS[status] or (status < 500 and "invalid_request_error" or "api_error"), message)
end

local function event(kind, rest)
  return "event: " .. kind .. '\ndata: {"type":"' .. kind .. '"' .. rest .. "}\n\n"
end

-- Writes the blocks of a stream: one at a time is open.
local function block_writer(write)
  local blocks = { count = 0, open = nil, calls = {} }
  function blocks.close()
    if blocks.open then write(event("content_block_stop", ',"index":' .. blocks.open)) end
    blocks.open, blocks.texting = nil, false
  end
  local function start(block)
    blocks.close()
    blocks.open, blocks.count = blocks.count, blocks.count + 1
    write(event("content_block_start", ',"index":' .. blocks.open .. ',"content_block":' .. block))
  end
  local function delta(index, kind, name, literal)
    local body = ',"delta":{"type":"' .. kind .. '","' .. name .. '":' .. literal .. "}"
    write(event("content_block_delta", ',"index":' .. index .. body))
  end
  function blocks.text(literal)
    if not blocks.texting then start('{"type":"text","text":""}') end
    blocks.texting = true
    delta(blocks.open, "text_delta", "text", literal)
  end
  function blocks.call(call)
    local number_of, used = call["index"] or "0", object(call["function"]) or {}
    local known = blocks.calls[number_of]
    -- Some engines number every call 0; another id is another call.
    if not known or (says(call["id"]) and call["id"] ~= known.id) then
      start('{"type":"tool_use","id":' .. (call["id"] or '""') .. ',"name":' .. (used["name"] or '""') .. ',"input":{}}')
      known = { id = call["id"], index = blocks.open }
      blocks.calls[number_of], blocks.called = known, true
    end
    if says(used["arguments"]) then delta(known.index, "input_json_delta", "partial_json", used["arguments"]) end
  end
  return blocks
end

-- Takes bytes of OpenAI's stream as they come and answers bytes of Anthropic's; an empty chunk is the stream's end.
local function message_stream()
  local read, out = event_reader(), {}
  local function write(text) out[#out + 1] = text end
  local blocks = block_writer(write)
  local started, over, ending, usage = false, false, {}, nil

  local function start(chunk)
    if started then return end
    started = true
    write(event("message_start", ',"message":{' .. opening(chunk, usage_of(nil)) .. ',"content":[],"stop_reason":null,"stop_sequence":null}'))
  end

  local function finish()
    if over or not started then return end
    over = true
    blocks.close()
    local reason, sequence = stop_of(ending, blocks.called)
    local delta = ',"delta":{"stop_reason":' .. reason .. ',"stop_sequence":' .. sequence .. "}"
    write(event("message_delta", delta .. ',"usage":' .. usage_of(usage)))
    write(event("message_stop", ""))
  end

  local function take(chunk)
    if given(chunk["error"]) then
      over = true
      local fault = object(chunk["error"]) or {}
      local message = is_string(fault["message"]) and fault["message"] or quoted(chunk["error"])
      write("event: error\ndata: " .. error_object("api_error", message) .. "\n\n")
      return
    end
    start(chunk)
    if given(chunk["usage"]) then usage = chunk["usage"] end
    local choice = object((list(chunk["choices"]) or {})[1]) or {}
    local delta = object(choice["delta"]) or {}
    for _, name in ipairs({ "content", "refusal" }) do
      if says(delta[name]) then blocks.text(delta[name]) end
    end
    for _, call in ipairs(given(delta["tool_calls"]) and list(delta["tool_calls"]) or {}) do blocks.call(object(call) or {}) end
    if given(choice["finish_reason"]) then ending = choice end
  end

  return function(bytes)
    out = {}
    for _, data in ipairs(read(bytes)) do
      local chunk = not over and object(data)
      if chunk then take(chunk) elseif string.find(data, "^%s*%[DONE%]") then finish() end
    end
    -- Whoever ends without [DONE] has ended all the same, if it said why.
    if bytes == "" and given(ending["finish_reason"]) then finish() end
    return table.concat(out)
  end
end
