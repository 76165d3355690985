-- For what engines answer beside chats: says which of it an engine lacks, and asks for what OpenAI takes for granted.

local NOTES = "aiops.endpoint"
local WHO_DOES = {
  ["/v1/embeddings"] = "; vLLM does, with a model that is made for embeddings",
  ["/v1/responses"] = "; vLLM, llama.cpp and transformers do, with a model that chats",
}

function envoy_on_request(handle)
  local path = string.match(handle:headers():get(":path"), "^[^?]*")
  handle:streamInfo():dynamicMetadata():set(NOTES, "path", path)
  if path ~= "/v1/responses" then return end
  -- Not every engine answers whole when it is not told how to.
  local text = body_text(handle)
  local start = text and skip_space(text, 1)
  if not start or string.byte(text, start) ~= 123 or value_at(text, start, "stream") then return end
  local first = skip_space(text, start + 1)
  local comma = string.byte(text, first) == 125 and "" or ","
  handle:body():setBytes('{"stream":false' .. comma .. string.sub(text, start + 1))
end

-- Whether the engine has no such path at all: then it has no words of OpenAI's for that, or says that a file is missing.
local function is_missing(status, text)
  if status == 501 then return true end
  local start = skip_space(text, 1)
  local object = string.byte(text, start) == 123
  local said = object and value_at(text, start, "error")
  return not said or value_at(text, start, "error.message") == '"File Not Found"'
end

function envoy_on_response(handle)
  local status = tonumber(handle:headers():get(":status"))
  if status ~= 404 and status ~= 405 and status ~= 501 then return end
  local known = handle:streamInfo():dynamicMetadata():get(NOTES)
  local text = body_text(handle) or ""
  if not known or not is_missing(status, text) then return end
  local path = known["path"]
  local message = quoted("the engine of this model does not answer " .. path .. (WHO_DOES[path] or ""))
  local answer = '{"error":{"message":' .. message .. ',"type":"invalid_request_error","param":"model","code":"unsupported_endpoint"}}'
  if text ~= "" then handle:body():setBytes(answer) end
  handle:headers():replace("content-type", "application/json")
  handle:headers():replace(":status", "404")
end
