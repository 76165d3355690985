-- Refuses request fields that the model's engine would silently ignore, and names the model as its target knows it.
-- The route's filter context says which: {model = name in refusals, fields = list of {path = dotted path, harmless = list
-- of JSON values that are let through}, rename = name to send on, plain = what the edge added and the target does not know}.

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

-- A number for what requests have in common that are to go to one instance; nil where they have nothing.
local function digest(text)
  local sum = 0
  for at = 1, #text do sum = (sum * 31 + string.byte(text, at)) % 4294967291 end
  return string.format("%.0f", sum)
end

local function first_message(text, start)
  for _, member in ipairs({ "messages", "prompt", "input" }) do
    local value = value_at(text, start, member)
    if value and string.byte(value) == 91 then
      local from = skip_space(value, 2)
      return string.sub(value, from, (value_end(value, from) or from) - 1)
    end
    if value then return value end
  end
end

local function kept_together(handle, context, text, start)
  if context:get("affinity") == "prefix" then
    local first = first_message(text, start)
    return first and digest(string.sub(first, 1, context:get("prefix")))
  end
  local session = handle:headers():get("x-session-id")
  if session then return digest(session) end
  local key = value_at(text, start, "prompt_cache_key") or value_at(text, start, "user")
  return key and digest(key)
end

function envoy_on_request(handle)
  local context = handle:filterContext()
  local fields, rename = context and context:get("fields"), context and context:get("rename")
  local affinity = context and context:get("affinity")
  if not fields and not rename and not affinity then return end
  -- Waiting for the body ends the life of what was got before.
  local model = context:get("model")
  local text = body_text(handle)
  if not text then return end
  local start = skip_space(text, 1)
  local key = affinity and kept_together(handle, handle:filterContext(), text, start)
  if key then handle:headers():replace("x-aiops-affinity", key) end
  for _, field in ipairs(fields or {}) do
    local value = value_at(text, start, field["path"])
    if value and not is_harmless(value, field["harmless"]) then
      return refuse(handle, model, field["path"])
    end
  end
  local plain = rename and handle:filterContext():get("plain")
  if plain and string.sub(text, 1, #plain) == plain then text = "{" .. string.sub(text, #plain + 1) end
  if rename and string.byte(text, start) == 123 then handle:body():setBytes(renamed(text, start, rename)) end
end
