-- Puts an engine's refusal into OpenAI's words, {"error": {...}}. One that has an error object already is left as it is.
-- Streams lose the counts that only the edge asked for.

local LONGEST = 1000

local function said(text, start)
  if string.byte(text, start) == 123 then
    for _, path in ipairs({ "detail", "message", "error" }) do
      local value = value_at(text, start, path)
      if value then return string.byte(value) == 34 and value or quoted(string.sub(value, 1, LONGEST)) end
    end
  end
  return quoted(string.sub(text, 1, LONGEST))
end

function envoy_on_response(handle)
  local status = tonumber(handle:headers():get(":status"))
  if status < 400 then return remove_usage(handle) end
  local text = body_text(handle)
  if not text then return end
  local start = skip_space(text, 1)
  local error = string.byte(text, start) == 123 and value_at(text, start, "error")
  if error and string.byte(error) == 123 then return end
  local kind = status < 500 and "invalid_request_error" or "server_error"
  handle:body():setBytes('{"error":{"message":' .. said(text, start) .. ',"type":"' .. kind .. '","param":null,"code":null}}')
  handle:headers():replace("content-type", "application/json")
end
