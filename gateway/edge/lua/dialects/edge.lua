-- Lets clients of Anthropic's Messages in: inside it is a chat, and the answer becomes a message again.

local NOTES = "aiops.messages"

local function respond(handle, status, kind, message)
  handle:respond(
    { [":status"] = status, ["content-type"] = "application/json" },
    '{"type":"error","error":{"type":"' .. kind .. '","message":' .. quoted(message) .. "}}"
  )
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path")
  -- Answers get their x-request-id behind all filters.
  local request_id = headers:get("x-request-id")
  if request_id then handle:streamInfo():dynamicMetadata():set(NOTES, "request_id", request_id) end
  if headers:get(":method") ~= "POST" or string.match(path, "^[^?]*") ~= "/v1/messages" then return end
  local text = body_text(handle)
  if text then
    local sound, chat = pcall(chat_request, text)
    if not sound then
      if type(chat) ~= "table" then error(chat, 0) end
      return respond(handle, "400", "invalid_request_error", chat.message)
    end
    if chat then handle:body():setBytes(chat) end
  end
  headers = handle:headers()
  headers:replace(":path", "/v1/chat/completions")
  headers:replace("x-envoy-original-path", "/v1/messages")
  headers:remove("accept-encoding")  -- the answer is read here
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status, kind = tonumber(headers:get(":status")), headers:get("content-type") or ""
  local known = handle:streamInfo():dynamicMetadata():get(NOTES)
  if known then headers:replace("request-id", known["request_id"]) end
  if status == 200 and string.find(kind, "^text/event%-stream") then
    local translate = message_stream()
    for chunk in handle:bodyChunks() do
      local length = chunk:length()
      chunk:setBytes(translate(length > 0 and chunk:getBytes(0, length) or ""))
    end
    return
  end
  local text = body_text(handle)
  if not text then return end
  local translated
  if status == 200 then translated = message_answer(text) else translated = message_error(text, status) end
  if not translated then return end
  handle:body():setBytes(translated)
  handle:headers():replace("content-type", "application/json")
end
