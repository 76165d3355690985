-- Answers chats and completions with the text of the route's filter context, {model = name, text = answer}: whole, or as
-- a stream of one piece. What is neither is refused.

local COUNTS = '"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'

local function answer_of(kind, model, choice, counts)
  return '{"id":"degraded","object":"' .. kind .. '","created":' .. os.time() .. ',"model":' .. quoted(model)
    .. ',"choices":[' .. choice .. "]" .. (counts and "," .. counts or "") .. "}"
end

local function choice_of(member, reason)
  return '{"index":0,' .. member .. ',"logprobs":null,"finish_reason":' .. reason .. "}"
end

local function streamed(kind, model, member, last)
  local events = { answer_of(kind, model, choice_of(member, "null")), answer_of(kind, model, choice_of(last, '"stop"')), "[DONE]" }
  return "data: " .. table.concat(events, "\n\ndata: ") .. "\n\n"
end

local function respond(handle, kind, body)
  handle:respond({ [":status"] = "200", ["content-type"] = kind }, body)
end

function envoy_on_request(handle)
  local context = handle:filterContext()
  local answer = context and context:get("text")
  if not answer then return end
  local model, path = context:get("model"), handle:headers():get(":path")
  local text = body_text(handle) or ""
  local start = skip_space(text, 1)
  local streams = string.byte(text, start) == 123 and value_at(text, start, "stream") == "true"
  if string.find(path, "/chat/completions", 1, true) then
    local said = '{"role":"assistant","content":' .. quoted(answer) .. "}"
    if streams then
      respond(handle, "text/event-stream", streamed("chat.completion.chunk", model, '"delta":' .. said, '"delta":{}'))
    else
      respond(handle, "application/json", answer_of("chat.completion", model, choice_of('"message":' .. said, '"stop"'), COUNTS))
    end
  elseif string.find(path, "/completions", 1, true) then
    local said = '"text":' .. quoted(answer)
    if streams then
      respond(handle, "text/event-stream", streamed("text_completion", model, said, '"text":""'))
    else
      respond(handle, "application/json", answer_of("text_completion", model, choice_of(said, '"stop"'), COUNTS))
    end
  end
end
