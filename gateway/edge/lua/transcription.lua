-- Turns OpenAI's call for a transcription into an inference of the Open Inference Protocol, and the answer back.
-- The model takes a tensor `audio` and gives a tensor `text`, as the platform serves speech models.

local FORMATS = { json = true, text = true }

local function refuse(handle, message, param, code)
  if string.find(handle:headers():get("x-aiops-call") or "", "^application/grpc") then
    return handle:respond({ [":status"] = "400", ["grpc-status"] = "3" }, message)
  end
  handle:respond(
    { [":status"] = "400", ["content-type"] = "application/json" },
    '{"error":{"message":' .. quoted(message) .. ',"type":"invalid_request_error","param":' .. (param and quoted(param) or "null")
      .. ',"code":' .. quoted(code) .. "}}"
  )
end

-- The fields of a multipart body by name (RFC 7578), nil when it is none.
local function form(text, boundary)
  local mark, fields = "--" .. boundary, {}
  local _, from = string.find(text, mark, 1, true)
  while from and string.sub(text, from + 1, from + 2) == "\r\n" do
    local _, head = string.find(text, "\r\n\r\n", from, true)
    local stop, behind = string.find(text, "\r\n" .. mark, from + 1, true)
    if not head or not stop or stop < head - 1 then return nil end
    local disposition = string.match(string.sub(text, from, head), "[Cc]ontent%-[Dd]isposition:([^\r]*)") or ""
    local name = string.match(disposition, '[; ]name="([^"]*)"') or string.match(disposition, "[; ]name=([^;%s]*)")
    if name then fields[name] = string.sub(text, head + 1, stop - 1) end
    from = behind
  end
  return from and fields
end

local function fault_of(fields)
  if not fields then return "the body is no multipart form with a 'file' and a 'model'", nil, "invalid_body" end
  if not fields["file"] then return "the form has no 'file'", "file", "invalid_body" end
  if not string.find(fields["model"] or "", "^%w[%w._-]*$") then return "the form names no model", "model", "invalid_body" end
  for name, value in pairs(fields) do
    local harmless = name == "file" or name == "model" or name == "language" or (name == "temperature" and tonumber(value) == 0)
      or (name == "response_format" and FORMATS[value]) or (name == "stream" and value == "false")
    if not harmless then return "speech models would ignore '" .. name .. "' or this value of it; leave it out", name, "unsupported_parameter" end
  end
end

local function length_prefix(size)
  return string.char(size % 256, math.floor(size / 256) % 256, math.floor(size / 65536) % 256, math.floor(size / 16777216))
end

function envoy_on_request(handle)
  local boundary = string.match(handle:headers():get("content-type") or "", '^multipart/form%-data;.*boundary="?([^";,%s]+)')
  local text = body_text(handle)
  local fields = boundary and text and form(text, boundary)
  local fault, param, code = fault_of(fields)
  if fault then return refuse(handle, fault, param, code) end
  local audio = fields["file"]
  local head = '{"inputs":[{"name":"audio","shape":[1,1],"datatype":"BYTES","parameters":{"binary_data_size":' .. (#audio + 4)
    .. '}}],"outputs":[{"name":"text"}]}'
  handle:body():setBytes(head .. length_prefix(#audio) .. audio)
  local headers = handle:headers()
  headers:replace("content-type", "application/octet-stream")
  headers:remove("accept-encoding")  -- the answer is read here
  headers:replace("inference-header-content-length", tostring(#head))
  headers:replace(":path", "/v2/models/" .. fields["model"] .. "/infer")
  handle:streamInfo():dynamicMetadata():set("aiops", "transcription", fields["response_format"] or "json")
end

function envoy_on_response(handle)
  local known = handle:streamInfo():dynamicMetadata():get("aiops")
  local format = known and known["transcription"]
  if not format then return end
  local status, text = tonumber(handle:headers():get(":status")), body_text(handle)
  if not text then return end
  if status ~= 200 then
    local message = value_at(text, skip_space(text, 1), "error")
    if not message or string.byte(message) ~= 34 then return end
    message = string.gsub(message, "for this protocol", "that transcribes", 1)
    local kind = status < 500 and "invalid_request_error" or "server_error"
    handle:body():setBytes('{"error":{"message":' .. message .. ',"type":"' .. kind .. '","param":null,"code":null}}')
    return
  end
  local _, start = string.find(text, '"data":[', 1, true)
  local behind = start and string.byte(text, start + 1) == 34 and string_end(text, start + 1)
  if not behind then return end
  local said = string.sub(text, start + 1, behind - 1)
  handle:body():setBytes(format == "text" and unescape(string.sub(said, 2, -2)) .. "\n" or '{"text":' .. said .. "}")
  if format == "text" then handle:headers():replace("content-type", "text/plain; charset=utf-8") end
end
