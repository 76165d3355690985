-- Makes OpenAI's chat answer, stream of chunks or error of what Anthropic's Messages answer.

local FINISHES = {
  ['"end_turn"'] = '"stop"', ['"stop_sequence"'] = '"stop"', ['"pause_turn"'] = '"stop"', ['"max_tokens"'] = '"length"',
  ['"model_context_window_exceeded"'] = '"length"', ['"tool_use"'] = '"tool_calls"', ['"refusal"'] = '"content_filter"',
}

-- Anthropic counts what it read from its cache and wrote to it apart from the rest of the input.
local function chat_usage(usage)
  local cached = number(usage["cache_read_input_tokens"])
  local input = number(usage["input_tokens"]) + cached + number(usage["cache_creation_input_tokens"])
  local output = number(usage["output_tokens"])
  return string.format(
    '{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d}}',
    input, output, input + output, cached
  )
end

local function finish_of(reason)
  return FINISHES[reason] or '"stop"'
end

local function call_of(block, index, arguments)
  local number_of = index and '"index":' .. index .. "," or ""
  return "{" .. number_of .. '"id":' .. (block["id"] or '""') .. ',"type":"function","function":{"name":' .. (block["name"] or '""')
    .. ',"arguments":' .. arguments .. "}}"
end

-- The answer to a chat; nil where the text is no message. `now` is in seconds since 1970.
local function chat_answer(text, now)
  local message = object(text)
  local content = message and list(message["content"])
  if not content then return nil end
  local texts, calls = {}, {}
  for _, each in ipairs(content) do
    local block = object(each) or {}
    if block["type"] == '"text"' and is_string(block["text"]) then texts[#texts + 1] = block["text"] end
    if block["type"] == '"tool_use"' then calls[#calls + 1] = call_of(block, nil, quoted(block["input"] or "{}")) end
  end
  local said = '{"role":"assistant","content":' .. (#texts > 0 and joined(texts, "") or "null")
  if #calls > 0 then said = said .. ',"tool_calls":[' .. table.concat(calls, ",") .. "]" end
  return '{"id":' .. (message["id"] or '""') .. ',"object":"chat.completion","created":' .. now .. ',"model":' .. (message["model"] or '""')
    .. ',"choices":[{"index":0,"message":' .. said .. '},"logprobs":null,"finish_reason":' .. finish_of(message["stop_reason"])
    .. '}],"usage":' .. chat_usage(object(message["usage"]) or {}) .. "}"
end

local function error_of(fault)
  local message = is_string(fault["message"]) and fault["message"] or '"the provider gave no reason"'
  local kind = is_string(fault["type"]) and fault["type"] or '"server_error"'
  return '{"error":{"message":' .. message .. ',"type":' .. kind .. ',"param":null,"code":' .. kind .. "}}"
end

-- The error; nil where the text is none of Anthropic's.
local function chat_error(text)
  local answer = object(text) or {}
  return answer["type"] == '"error"' and error_of(object(answer["error"]) or {}) or nil
end

-- Takes bytes of Anthropic's stream as they come and answers bytes of OpenAI's.
local function chat_stream(now, wants_usage)
  local read, out, blocks, calls, opening = event_reader(), {}, {}, 0, nil
  local usage = {}

  local function write(choices, more)
    out[#out + 1] = "data: {" .. (opening or '"id":""') .. ',"object":"chat.completion.chunk","created":' .. now .. ',"choices":['
      .. choices .. "]" .. (more or "") .. "}\n\n"
  end
  local function delta(text, reason, more)
    write('{"index":0,"delta":{' .. text .. '},"logprobs":null,"finish_reason":' .. (reason or "null") .. "}", more)
  end
  local function count(text)
    for name, value in pairs(text and object(text) or {}) do
      if tonumber(value) then usage[name] = value end
    end
  end

  local takes = {}
  takes['"message_start"'] = function(event)
    local message = object(event["message"]) or {}
    opening = '"id":' .. (message["id"] or '""') .. ',"model":' .. (message["model"] or '""')
    count(message["usage"])
    delta('"role":"assistant","content":""')
  end
  takes['"content_block_start"'] = function(event)
    local block = object(event["content_block"]) or {}
    if block["type"] == '"tool_use"' then
      blocks[event["index"]] = calls
      delta('"tool_calls":[' .. call_of(block, calls, '""') .. "]")
      calls = calls + 1
    elseif block["type"] == '"text"' and says(block["text"]) then
      delta('"content":' .. block["text"])
    end
  end
  takes['"content_block_delta"'] = function(event)
    local change, call = object(event["delta"]) or {}, blocks[event["index"]]
    if says(change["text"]) then delta('"content":' .. change["text"]) end
    if call and says(change["partial_json"]) then
      delta('"tool_calls":[{"index":' .. call .. ',"function":{"arguments":' .. change["partial_json"] .. "}}]")
    end
  end
  takes['"message_delta"'] = function(event)
    local change = object(event["delta"]) or {}
    count(event["usage"])
    -- Counted even where the client does not ask: this chunk may say so without being one more.
    delta("", finish_of(change["stop_reason"]), not wants_usage and ',"usage":' .. chat_usage(usage) or nil)
  end
  takes['"message_stop"'] = function()
    if wants_usage then write("", ',"usage":' .. chat_usage(usage)) end
    out[#out + 1] = "data: [DONE]\n\n"
  end
  takes['"error"'] = function(event)
    out[#out + 1] = "data: " .. error_of(object(event["error"]) or {}) .. "\n\n"
  end

  return function(bytes)
    out = {}
    for _, data in ipairs(read(bytes)) do
      local event = object(data) or {}
      local take = takes[event["type"]]
      if take then take(event) end
    end
    return table.concat(out)
  end
end
