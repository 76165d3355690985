-- JSON text taken apart and put together. A value stays the text that it came as, so what both dialects spell alike is copied.

local LONGEST_EVENT = 4 * 1024 * 1024

-- The members of an object by name, nil for any other text. Of members of one name the last counts.
local function object(text)
  local start = text and skip_space(text, 1)
  if not start or string.byte(text, start) ~= 123 then return nil end
  local found = {}
  for name, value, behind in members(text, start) do found[name] = string.sub(text, value, behind - 1) end
  return found
end

-- The values of a list, nil for any other text.
local function list(text)
  local start = text and skip_space(text, 1)
  if not start or string.byte(text, start) ~= 91 then return nil end
  local found, from = {}, skip_space(text, start + 1)
  while from <= #text and string.byte(text, from) ~= 93 do
    local behind = value_end(text, from)
    if not behind then return nil end
    found[#found + 1] = string.sub(text, from, behind - 1)
    from = skip_space(text, behind)
    if string.byte(text, from) == 44 then from = skip_space(text, from + 1) end
  end
  return found
end

local function is_string(text)
  return text ~= nil and string.byte(text) == 34 and #text > 1
end

-- Whether there is a string with something in it.
local function says(text)
  return is_string(text) and #text > 2
end

-- Whether something is given: null stands for nothing.
local function given(text)
  return text ~= nil and text ~= "null"
end

local function utf8_of(code)
  if code < 0x80 then return string.char(code) end
  local tail = string.char(0x80 + code % 64)
  if code < 0x800 then return string.char(0xC0 + math.floor(code / 64)) .. tail end
  tail = string.char(0x80 + math.floor(code / 64) % 64) .. tail
  if code < 0x10000 then return string.char(0xE0 + math.floor(code / 4096)) .. tail end
  return string.char(0xF0 + math.floor(code / 262144), 0x80 + math.floor(code / 4096) % 64) .. tail
end

-- What a string literal says, in UTF-8. Half a surrogate pair becomes U+FFFD.
local function decoded(literal)
  local raw = string.sub(literal, 2, -2)
  if not string.find(raw, "\\", 1, true) then return raw end
  local parts, from = {}, 1
  while true do
    local at = string.find(raw, "\\", from, true)
    if not at then break end
    parts[#parts + 1] = string.sub(raw, from, at - 1)
    local mark = string.sub(raw, at + 1, at + 1)
    from = at + 2
    if mark == "u" then
      local code = tonumber(string.match(raw, "^%x%x%x%x", from) or "fffd", 16)
      from = from + 4
      if code >= 0xD800 and code < 0xE000 then
        local low = tonumber(string.match(raw, "^\\u(%x%x%x%x)", from) or "0", 16)
        if code < 0xDC00 and low >= 0xDC00 and low < 0xE000 then
          code, from = 0x10000 + (code - 0xD800) * 1024 + low - 0xDC00, from + 6
        else
          code = 0xFFFD
        end
      end
      parts[#parts + 1] = utf8_of(code)
    else
      parts[#parts + 1] = ESCAPES[mark] or mark
    end
  end
  parts[#parts + 1] = string.sub(raw, from)
  return table.concat(parts)
end

-- Several string literals as one; `between` is written as it is in a literal.
local function joined(literals, between)
  local inner = {}
  for index, literal in ipairs(literals) do inner[index] = string.sub(literal, 2, -2) end
  return '"' .. table.concat(inner, between) .. '"'
end

local function is_sound_string(text, at, stop)
  local inner = string.gsub(string.sub(text, at + 1, stop - 2), '\\["\\/bfnrt]', " ")
  inner = string.gsub(inner, "\\u%x%x%x%x", " ")
  return not string.find(inner, "[%z\1-\31\\]")
end

local function is_number(token)
  local rest = string.match(token, "^%-?0(.*)$") or string.match(token, "^%-?[1-9]%d*(.*)$")
  if not rest then return false end
  rest = string.match(rest, "^%.%d+(.*)$") or rest
  return rest == "" or string.find(rest, "^[eE][+-]?%d+$") ~= nil
end

-- The position behind a value that is JSON to the letter, nil where it is none.
local function sound_end(text, at, depth)
  local first = string.byte(text, at)
  if first == 34 then
    local stop = string_end(text, at)
    return stop and is_sound_string(text, at, stop) and stop or nil
  end
  if first ~= 123 and first ~= 91 then
    local token = string.match(text, "^[%w+.%-]+", at)
    if not token then return nil end
    local sound = token == "true" or token == "false" or token == "null" or is_number(token)
    return sound and at + #token or nil
  end
  if depth > MAX_DEPTH then return nil end
  local close, from = first == 123 and 125 or 93, skip_space(text, at + 1)
  if string.byte(text, from) == close then return from + 1 end
  while true do
    if first == 123 then
      if string.byte(text, from) ~= 34 then return nil end
      local colon = sound_end(text, from, depth)
      colon = colon and skip_space(text, colon)
      if not colon or string.byte(text, colon) ~= 58 then return nil end
      from = skip_space(text, colon + 1)
    end
    local behind = sound_end(text, from, depth + 1)
    if not behind then return nil end
    behind = skip_space(text, behind)
    if string.byte(text, behind) == close then return behind + 1 end
    if string.byte(text, behind) ~= 44 then return nil end
    from = skip_space(text, behind + 1)
  end
end

-- Whether the text is one JSON object and nothing else.
local function is_sound_object(text)
  local start = skip_space(text, 1)
  if string.byte(text, start) ~= 123 then return false end
  local behind = sound_end(text, start, 0)
  return behind ~= nil and skip_space(text, behind) > #text
end

local function number(text)
  return tonumber(text or "") or 0
end

-- Takes bytes of a stream of server-sent events as they come; answers the data of the events that they complete.
local function event_reader()
  local pending, data = "", {}
  return function(bytes)
    local events, from = {}, 1
    pending = pending .. bytes
    while true do
      local stop = string.find(pending, "\n", from, true)
      if not stop then break end
      local line = string.gsub(string.sub(pending, from, stop - 1), "\r$", "")
      from = stop + 1
      if line == "" then
        if #data > 0 then events[#events + 1] = table.concat(data, "\n") end
        data = {}
      elseif string.sub(line, 1, 5) == "data:" then
        data[#data + 1] = string.gsub(string.sub(line, 6), "^ ", "")
      end
    end
    pending = string.sub(pending, from)
    if #pending > LONGEST_EVENT then pending = "" end
    return events
  end
end

-- Ends a translation: the request asks for what the other side has no word for.
local function refuse_field(param, message)
  error({ param = param, message = message or ("the target would ignore '" .. param .. "'; leave it out") }, 0)
end
