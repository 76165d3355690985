-- Refuses request fields that the model's engine would silently ignore, and names the model as its target knows it.
-- The route's filter context says which: {model = name in refusals, fields = list of {path = dotted path, harmless = list
-- of JSON values that are let through}, rename = name to send on}.

local function is_harmless(value, harmless)
  local compact = string.gsub(value, "%s+", "")
  for _, candidate in ipairs(harmless) do
    if compact == candidate or (tonumber(compact) and tonumber(compact) == tonumber(candidate)) then return true end
  end
  return false
end

local function refuse(handle, model, path)
  local message = "the engine of model " .. model .. " would ignore '" .. path .. "'; leave it out"
  if string.find(handle:headers():get("x-aiops-call") or "", "^application/grpc") then
    handle:respond({ [":status"] = "400", ["grpc-status"] = "3" }, message)
  else
    handle:respond(
      { [":status"] = "400", ["content-type"] = "application/json" },
      '{"error":{"message":' .. quoted(message) .. ',"type":"invalid_request_error","param":' .. quoted(path)
        .. ',"code":"unsupported_parameter"}}'
    )
  end
end

-- The text with another `model`; nothing else of it is touched.
local function renamed(text, start, name)
  local parts, from = {}, 1
  for member, value, behind in members(text, start) do
    if member == "model" then
      parts[#parts + 1] = string.sub(text, from, value - 1)
      parts[#parts + 1] = quoted(name)
      from = behind
    end
  end
  parts[#parts + 1] = string.sub(text, from)
  return table.concat(parts)
end

function envoy_on_request(handle)
  local context = handle:filterContext()
  local fields, rename = context and context:get("fields"), context and context:get("rename")
  if not fields and not rename then return end
  -- Waiting for the body ends the life of what was got before.
  local model = context:get("model")
  local text = body_text(handle)
  if not text then return end
  local start = skip_space(text, 1)
  for _, field in ipairs(fields or {}) do
    local value = value_at(text, start, field["path"])
    if value and not is_harmless(value, field["harmless"]) then
      return refuse(handle, model, field["path"])
    end
  end
  if rename and string.byte(text, start) == 123 then handle:body():setBytes(renamed(text, start, rename)) end
end
