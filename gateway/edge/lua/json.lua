-- Reads JSON text in place, without building it: positions in, positions out. A nil position means that the text is no JSON there.

local MAX_DEPTH = 64

local function skip_space(text, at)
  return string.find(text, "[^ \t\r\n]", at) or #text + 1
end

-- `at` is an opening quote; answers the position behind the closing one. A plain find is memchr(3): prompts are long.
local function string_end(text, at)
  local found = at
  while true do
    found = string.find(text, '"', found + 1, true)
    if not found then return nil end
    local before = found - 1
    while string.byte(text, before) == 92 do before = before - 1 end
    -- A quote behind an odd number of backslashes is one of the string's own.
    if (found - before) % 2 == 1 then return found + 1 end
  end
end

-- Answers the position behind the value that starts at `at`.
local function value_end(text, at)
  local first = string.byte(text, at)
  if first == 34 then return string_end(text, at) end
  if first ~= 123 and first ~= 91 then
    local behind = string.find(text, "[,%]} \t\r\n]", at) or #text + 1
    return behind > at and behind or nil
  end
  local depth, from = 0, at
  while true do
    local found = string.find(text, '[%[%]{}"]', from)
    if not found then return nil end
    local mark = string.byte(text, found)
    if mark == 34 then
      from = string_end(text, found)
      if not from then return nil end
    else
      depth = depth + ((mark == 123 or mark == 91) and 1 or -1)
      from = found + 1
      if depth == 0 then return from end
    end
  end
end

local ESCAPES = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

-- The name between two quotes, with escapes resolved, so that "\u006e" is seen as "n".
local function unescape(raw)
  if not string.find(raw, "\\", 1, true) then return raw end
  return (string.gsub(raw, "\\(.)(%x?%x?%x?%x?)", function(mark, hex)
    if mark ~= "u" then return (ESCAPES[mark] or mark) .. hex end
    local code = tonumber(hex, 16)
    return code and code < 128 and string.char(code) or "\\u" .. hex
  end))
end

-- Iterates over the members of the object at `at`: name, position of the value, position behind it.
-- Ends silently where the text stops being JSON: whoever reads the body next says what is wrong with it.
local function members(text, at)
  local from = at + 1
  return function()
    local quote = string.find(text, '[^ \t\r\n,]', from)
    if not quote or string.byte(text, quote) ~= 34 then return nil end
    local behind = string_end(text, quote)
    if not behind then return nil end
    local colon = skip_space(text, behind)
    if string.byte(text, colon) ~= 58 then return nil end
    local value = skip_space(text, colon + 1)
    local stop = value_end(text, value)
    if not stop then return nil end
    from = stop
    return unescape(string.sub(text, quote + 1, behind - 2)), value, stop
  end
end

-- The text of the value at a dotted path below the object at `at`. Of members of one name the last counts, as parsers do.
local function value_at(text, at, path)
  local name, rest = string.match(path, "^([^.]+)%.?(.*)$")
  if string.byte(text, at) ~= 123 then return nil end
  local found
  for member, value, behind in members(text, at) do
    if member == name then
      found = rest == "" and string.sub(text, value, behind - 1) or value_at(text, value, rest)
    end
  end
  return found
end

-- A string as a JSON literal.
local function quoted(value)
  local escaped = string.gsub(value, '[%c"\\]', function(mark) return string.format("\\u%04x", string.byte(mark)) end)
  return '"' .. escaped .. '"'
end

local function body_text(handle)
  local body = handle:body()
  if not body or body:length() == 0 then return nil end
  return body:getBytes(0, body:length())
end
