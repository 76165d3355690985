-- Answers the one field that the contract's `response_body` names, which Envoy's transcoder cannot do by itself.

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(":status") ~= "200" or not string.find(headers:get("content-type") or "", "^application/json") then return end
  local text = body_text(handle)
  if not text then return end
  local _, value, behind = members(text, skip_space(text, 1))()
  handle:body():setBytes(value and string.sub(text, value, behind - 1) or "{}")
end
