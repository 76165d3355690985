-- Leaves of an engine's error object only its message, for gRPC: the status code says the rest.

function envoy_on_response(handle)
  if tonumber(handle:headers():get(":status")) < 400 then return end
  local text = body_text(handle)
  if not text then return end
  local start = skip_space(text, 1)
  local message = value_at(text, start, "error.message") or value_at(text, start, "detail") or value_at(text, start, "message")
  if message and string.byte(message) == 34 then
    handle:body():setBytes(unescape(string.sub(message, 2, -2)))
  end
end
