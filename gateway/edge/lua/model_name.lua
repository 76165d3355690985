-- Finds the model that a JSON body names and tells it in headers, which lead to the model's route; a stream is asked for its
-- counts there.
-- Nothing is built of the body: a prompt of half a megabyte is only looked through.

local MISSING, INVALID = "!missing", "!invalid"

local function utf8_of(code)
  if code < 128 then return string.char(code) end
  if code < 2048 then return string.char(192 + math.floor(code / 64), 128 + code % 64) end
  local low = string.char(128 + math.floor(code / 64) % 64, 128 + code % 64)
  if code < 65536 then return string.char(224 + math.floor(code / 4096)) .. low end
  return string.char(240 + math.floor(code / 262144), 128 + math.floor(code / 4096) % 64) .. low
end

-- What a JSON string between its quotes says; nil when its escapes are none.
local function said(raw)
  if not string.find(raw, "\\", 1, true) then return raw end
  local parts, at = {}, 1
  while at <= #raw do
    local escape = string.find(raw, "\\", at, true)
    parts[#parts + 1] = string.sub(raw, at, (escape or 0) - 1)
    if not escape then break end
    local mark = string.sub(raw, escape + 1, escape + 1)
    at = escape + 2
    if mark == "u" then
      local code = tonumber(string.match(raw, "^%x%x%x%x", at) or "", 16)
      if not code then return nil end
      at = at + 4
      local low = code >= 0xD800 and code < 0xDC00 and tonumber(string.match(raw, "^\\u([dD][c-fC-F]%x%x)", at) or "", 16)
      if low then
        code, at = 0x10000 + (code - 0xD800) * 1024 + low - 0xDC00, at + 6
      end
      parts[#parts + 1] = utf8_of(code)
    else
      parts[#parts + 1] = ESCAPES[mark] or mark
    end
  end
  return table.concat(parts)
end

-- The model; where the object begins if a stream is asked for, and where its options stand. The last of several members of
-- one name counts, as parsers have it.
local function named(text)
  local start = skip_space(text, 1)
  if string.byte(text, start) ~= 123 then return INVALID end
  local found, stop, streams, options = MISSING, start + 1, false, nil
  for member, value, behind in members(text, start) do
    if member == "model" then
      found = string.byte(text, value) == 34 and said(string.sub(text, value + 1, behind - 2)) or INVALID
    elseif member == "stream" then
      streams = string.sub(text, value, behind - 1) == "true"
    elseif member == "stream_options" then
      options = value
    end
    stop = behind
  end
  if string.byte(text, skip_space(text, stop)) ~= 125 then return INVALID end
  return found, streams and start, options
end

function envoy_on_request(handle)
  local text = body_text(handle)
  local model, streams, options = MISSING, nil, nil
  if text then model, streams, options = named(text) end
  if string.find(model, "[%c]") then model = INVALID end
  local headers = handle:headers()
  handle:streamInfo():dynamicMetadata():set("aiops", "model", model)
  headers:replace("x-aiops-model", model)
  headers:replace("x-aiops-route", (headers:get("x-aiops-org") or "") .. "/" .. model)
  handle:clearRouteCache()
  if streams then ask_for_usage(handle, text, streams, options) end
end
