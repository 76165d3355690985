-- Refuses a REST body with a member that its message does not have: Envoy's transcoder would drop it in silence.
-- RULES[verb] = list of {path pattern, type name}; TYPES[type name] = {member name = type name of a message, or true for any value}.

local function unknown_member(text, at, kind, path, depth)
  local fields = TYPES[kind]
  local first = string.byte(text, at)
  if not fields or depth > MAX_DEPTH then return nil end
  if first == 91 then
    local index, from = 0, skip_space(text, at + 1)
    while string.byte(text, from) ~= 93 do
      local fault = unknown_member(text, from, kind, path .. "[" .. index .. "]", depth + 1)
      if fault then return fault end
      local behind = value_end(text, from)
      if not behind then return nil end
      from = skip_space(text, behind)
      if string.byte(text, from) == 44 then from = skip_space(text, from + 1) end
      if from > #text then return nil end
      index = index + 1
    end
    return nil
  end
  if first ~= 123 then return nil end
  for name, value in members(text, at) do
    local here = path == "" and name or path .. "." .. name
    local kind_of_value = fields[name] or fields["*"]
    if not kind_of_value then return here end
    if kind_of_value ~= true then
      local fault = unknown_member(text, value, kind_of_value, here, depth + 1)
      if fault then return fault end
    end
  end
  return nil
end

local function kind_of(verb, path)
  local plain = string.match(path, "^[^?]*")
  for _, rule in ipairs(RULES[verb] or {}) do
    if string.find(plain, rule[1]) then return rule[2] end
  end
  return nil
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local kind = kind_of(headers:get(":method"), headers:get(":path"))
  if not kind then return end
  local text = body_text(handle)
  if not text then return end
  local fault = unknown_member(text, skip_space(text, 1), kind, "", 0)
  if not fault then return end
  handle:respond(
    { [":status"] = "400", ["content-type"] = "application/json" },
    '{"code":3,"message":' .. quoted("there is no field " .. fault .. "; see /docs for this method's fields")
      .. ',"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"INVALID_REQUEST","domain":"aiops","metadata":{}},'
      .. '{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":' .. quoted(fault)
      .. ',"description":"no such field"}]}]}'
  )
end
