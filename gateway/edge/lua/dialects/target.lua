-- Asks a target that speaks Anthropic's Messages: a chat becomes a message, and the answer a chat's again.

local NOTES = "aiops"

local function refuse(handle, status, param, message)
  handle:respond(
    { [":status"] = status, ["content-type"] = "application/json" },
    '{"error":{"message":' .. quoted(message) .. ',"type":"invalid_request_error","param":' .. quoted(param)
      .. ',"code":"unsupported_parameter"}}'
  )
end

function envoy_on_request(handle)
  local path = string.match(handle:headers():get(":path"), "^[^?]*")
  if path ~= "/v1/chat/completions" then
    return refuse(handle, "404", "model", "this model answers chats alone, at /v1/chat/completions; it has no " .. path)
  end
  local text = body_text(handle) or ""
  local sound, request, wants_usage = pcall(messages_request, text)
  if not sound then
    if type(request) ~= "table" then error(request, 0) end
    return refuse(handle, "400", request.param, request.message)
  end
  if request then handle:body():setBytes(request) end
  local headers = handle:headers()
  headers:replace(":path", "/v1/messages")
  headers:replace("anthropic-version", "2023-06-01")
  headers:remove("accept-encoding")  -- the answer is read here
  handle:streamInfo():dynamicMetadata():set(NOTES, "wants_usage", wants_usage or false)
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status, kind = tonumber(headers:get(":status")), headers:get("content-type") or ""
  local now = tostring(math.floor(handle:timestamp() / 1000))
  if status == 200 and string.find(kind, "^text/event%-stream") then
    local known = handle:streamInfo():dynamicMetadata():get(NOTES)
    local translate = chat_stream(now, known and known["wants_usage"])
    for chunk in handle:bodyChunks() do
      local length = chunk:length()
      chunk:setBytes(translate(length > 0 and chunk:getBytes(0, length) or ""))
    end
    return
  end
  -- "Overloaded" of Anthropic's own; whoever tries again knows 503.
  if status == 529 then headers:replace(":status", "503") end
  local text = body_text(handle)
  if not text then return end
  local translated
  if status == 200 then translated = chat_answer(text, now) else translated = chat_error(text) end
  if not translated then return end
  handle:body():setBytes(translated)
  handle:headers():replace("content-type", "application/json")
end
