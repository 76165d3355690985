-- Streams that are asked for by an instance's path, where nobody else reads the body.

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = string.match(headers:get(":path"), "^[^?]*")
  if headers:get(":method") ~= "POST" or not (string.find(path, "/completions$") or string.find(path, "/inference$")) then return end
  local text = body_text(handle)
  local start = text and skip_space(text, 1)
  if not start or string.byte(text, start) ~= 123 then return end
  local streams, options
  for member, value, behind in members(text, start) do
    if member == "stream" then streams = string.sub(text, value, behind - 1) == "true" end
    if member == "stream_options" then options = value end
  end
  if streams then ask_for_usage(handle, text, start, options) end
end

function envoy_on_response(handle)
  remove_usage(handle)
end
