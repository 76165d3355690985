-- Calls over gRPC that Envoy's own transcoder has no way for: streams of answers, and recordings.
-- CALLS[path] = {path of the engine, type of the request, type of the answer, whether it streams}.

local NOTES = "aiops.grpc"
-- Where the access log looks.
local COUNTED = "aiops"
local BOUNDARY = "aiops-recording-7d1f0c6a2b"
-- HTTP's statuses as gRPC's; see https://grpc.github.io/grpc/core/md_doc_statuscodes.html
local CODES = {
  [400] = "3", [401] = "16", [403] = "7", [404] = "5", [408] = "4", [413] = "8", [422] = "3", [429] = "8", [502] = "14", [503] = "14",
  [504] = "4",
}

local function frame(message)
  local size = #message
  return string.char(0, math.floor(size / 16777216), math.floor(size / 65536) % 256, math.floor(size / 256) % 256, size % 256) .. message
end

-- The one message of a call; nil where it is compressed or cut.
local function only_message(text)
  local flag, a, b, c, d = string.byte(text, 1, 5)
  if flag ~= 0 or not d or #text ~= 5 + ((a * 256 + b) * 256 + c) * 256 + d then return nil end
  return string.sub(text, 6)
end

-- A message as the protocol has it: all but printable ASCII is escaped.
local function escaped(message)
  return (string.gsub(message, "[^ -$&-~]", function(mark) return string.format("%%%02X", string.byte(mark)) end))
end

local function note(handle, code, message)
  local notes = handle:streamInfo():dynamicMetadata()
  notes:set(NOTES, "code", code)
  notes:set(NOTES, "message", escaped(message))
end

local function form_of(kind, message)
  local parts = {}
  for _, name in ipairs({ "model", "language" }) do
    local value = bytes_of(kind, message, name)
    if value and value ~= "" then
      parts[#parts + 1] = "--" .. BOUNDARY .. '\r\ncontent-disposition: form-data; name="' .. name .. '"\r\n\r\n' .. value .. "\r\n"
    end
  end
  parts[#parts + 1] = "--" .. BOUNDARY .. '\r\ncontent-disposition: form-data; name="file"; filename="audio"\r\n\r\n'
    .. (bytes_of(kind, message, "audio") or "") .. "\r\n--" .. BOUNDARY .. "--\r\n"
  return table.concat(parts)
end

function envoy_on_request(handle)
  local path = handle:headers():get(":path")
  local call = CALLS[path]
  local text = body_text(handle)
  local message = call and text and only_message(text)
  local json = message and (call[4] and json_of(call[2], message) or read_fields(message) and "{}")
  if not json then
    return handle:respond({ [":status"] = "400", ["grpc-status"] = "3" }, "the call is no single message without compression")
  end
  handle:streamInfo():dynamicMetadata():set(NOTES, "call", path)
  local kind = "application/json"
  if call[4] then
    json = string.sub(json, 1, -2) .. (json == "{}" and "" or ",") .. '"stream":true,"stream_options":{"include_usage":true}}'
    handle:body():setBytes(json)
  else
    kind = "multipart/form-data; boundary=" .. BOUNDARY
    handle:body():setBytes(form_of(call[2], message))
  end
  local headers = handle:headers()
  headers:replace("content-type", kind)
  headers:replace(":path", call[1])
  headers:remove("te")
  headers:remove("grpc-accept-encoding")
  headers:remove("accept-encoding")
end

-- What Envoy said by itself in another protocol's words: that there is no such model.
local function reworded(headers)
  local text = string.gsub(headers:get("grpc-message") or "", "%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  local said = (object(text) or {})["error"]
  if not is_string(said) then return end
  headers:replace("grpc-message", escaped(decoded(said)))
  if headers:get("grpc-status") == "12" then headers:replace("grpc-status", "5") end
end

local function refused(handle, status)
  local text = body_text(handle) or ""
  local answer = object(text) or {}
  local fault = object(answer["error"]) or {}
  local message = is_string(fault["message"]) and decoded(fault["message"]) or string.sub(text, 1, 1000)
  note(handle, CODES[status] or "13", message)
  if text ~= "" then handle:body():setBytes("") end
end

local function stream(handle, kind)
  local read = event_reader()
  for chunk in handle:bodyChunks() do
    local length, out = chunk:length(), {}
    for _, data in ipairs(read(length > 0 and chunk:getBytes(0, length) or "")) do
      local answer = object(data) or {}
      if given(answer["error"]) then
        local fault = object(answer["error"]) or {}
        note(handle, "13", is_string(fault["message"]) and decoded(fault["message"]) or answer["error"])
      else
        local message = wire_of(kind, data)
        if message then out[#out + 1] = frame(message) end
      end
    end
    chunk:setBytes(table.concat(out))
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local known = handle:streamInfo():dynamicMetadata():get(NOTES)
  local call = known and CALLS[known["call"]]
  if not call then return end
  if headers:get("grpc-status") then return reworded(headers) end
  local status, given_kind = tonumber(headers:get(":status")), headers:get("content-type") or ""
  headers:replace(":status", "200")
  headers:replace("content-type", "application/grpc")
  headers:remove("content-length")
  note(handle, "0", "")
  -- What becomes of the headers here hides both.
  local streams = string.find(given_kind, "^text/event%-stream") ~= nil
  local counted = handle:streamInfo():dynamicMetadata()
  counted:set(COUNTED, "engine_status", status)
  counted:set(COUNTED, "streamed", streams)
  if status ~= 200 then return refused(handle, status) end
  if streams then return stream(handle, call[3]) end
  local message = wire_of(call[3], body_text(handle) or "")
  if not message then return note(handle, "13", "the engine's answer cannot be read") end
  handle:body():setBytes(frame(message))
end
