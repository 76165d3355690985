-- Protocol Buffers' wire format to JSON and back, for the messages that SHAPES tells of.
-- SHAPES[type] = {[field number] = {name, kind, whether it is repeated}}; a kind is a scalar's name or a message's type.
-- Format: https://protobuf.dev/programming-guides/encoding/

local VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

-- Of a number that 49 bits do not hold, the lowest 49: those of a negative one say enough, and others are none of ours.
local function read_varint(bytes, at)
  local value, scale = 0, 1
  for from = at, at + 9 do
    local byte = string.byte(bytes, from)
    if not byte then return nil end
    if scale < 2 ^ 49 then value = value + (byte % 128) * scale end
    if byte < 128 then return value, from + 1 end
    scale = scale * 128
  end
  return nil
end

local function written_varint(value)
  local parts = {}
  while value >= 128 do
    parts[#parts + 1] = string.char(128 + value % 128)
    value = math.floor(value / 128)
  end
  return table.concat(parts) .. string.char(value)
end

-- IEEE 754, 64 bits, the least of them first.
local function read_double(bytes, at)
  local b = { string.byte(bytes, at, at + 7) }
  local exponent = (b[8] % 128) * 16 + math.floor(b[7] / 16)
  local fraction = b[7] % 16
  for index = 6, 1, -1 do fraction = fraction * 256 + b[index] end
  local value
  if exponent == 0 then
    value = math.ldexp(fraction, -1074)
  elseif exponent == 2047 then
    return nil
  else
    value = math.ldexp(fraction + 2 ^ 52, exponent - 1075)
  end
  return b[8] >= 128 and -value or value
end

local function written_double(value)
  if value == 0 then return string.rep("\0", 8) end
  local sign, mantissa, exponent = value < 0 and 128 or 0, math.frexp(math.abs(value))
  exponent = exponent + 1022
  local fraction = (mantissa * 2 - 1) * 2 ^ 52
  if exponent < 1 then
    fraction, exponent = math.ldexp(mantissa * 2 ^ 52, exponent), 0
  end
  local parts = {}
  for index = 1, 6 do
    parts[index] = string.char(fraction % 256)
    fraction = math.floor(fraction / 256)
  end
  parts[7] = string.char((exponent % 16) * 16 + fraction % 16)
  parts[8] = string.char(sign + math.floor(exponent / 16))
  return table.concat(parts)
end

local function signed(value)
  value = value % 2 ^ 32
  return value >= 2 ^ 31 and value - 2 ^ 32 or value
end

-- The fields of a message in their order: number, wire type, value. nil at a fault.
local function read_fields(bytes)
  local fields, at = {}, 1
  while at <= #bytes do
    local key, value
    key, at = read_varint(bytes, at)
    if not key then return nil end
    local wire = key % 8
    if wire == VARINT then
      value, at = read_varint(bytes, at)
      if not value then return nil end
    else
      local size = wire == FIXED64 and 8 or wire == FIXED32 and 4 or nil
      if wire == LENGTH then size, at = read_varint(bytes, at) end
      if not size or at + size - 1 > #bytes then return nil end
      value, at = string.sub(bytes, at, at + size - 1), at + size
    end
    fields[#fields + 1] = { math.floor(key / 8), wire, value }
  end
  return fields
end

local json_of

local function json_of_value(kind, wire, value)
  if kind == "string" then return quoted(value) end
  if SHAPES[kind] then return json_of(kind, value) end
  if kind == "double" then
    local double = wire == FIXED64 and read_double(value, 1)
    return double and string.format("%.17g", double) or "0"
  end
  if kind == "bool" then return value ~= 0 and "true" or "false" end
  return string.format("%d", kind == "int32" and signed(value) or value)
end

-- A message as a JSON object, nil where the bytes are none.
function json_of(kind, bytes)
  local fields, singles, lists, written = read_fields(bytes), {}, {}, {}
  if not fields then return nil end
  for _, field in ipairs(fields) do
    local shape = SHAPES[kind][field[1]]
    if shape then
      local value = json_of_value(shape[2], field[2], field[3])
      if not value then return nil end
      if shape[3] then
        lists[shape[1]] = lists[shape[1]] or {}
        table.insert(lists[shape[1]], value)
      else
        singles[shape[1]] = value
      end
    end
  end
  for name, value in pairs(singles) do written[#written + 1] = '"' .. name .. '":' .. value end
  for name, values in pairs(lists) do written[#written + 1] = '"' .. name .. '":[' .. table.concat(values, ",") .. "]" end
  return "{" .. table.concat(written, ",") .. "}"
end

-- The bytes of one string field of a message, as they are.
local function bytes_of(kind, bytes, name)
  local found
  for _, field in ipairs(read_fields(bytes) or {}) do
    local shape = SHAPES[kind][field[1]]
    if shape and shape[1] == name and field[2] == LENGTH then found = field[3] end
  end
  return found
end

local wire_of

local function field_of(number_of, kind, text)
  local function key(wire) return written_varint(number_of * 8 + wire) end
  if kind == "string" then
    local said = is_string(text) and decoded(text) or text
    return key(LENGTH) .. written_varint(#said) .. said
  end
  if SHAPES[kind] then
    local inner = wire_of(kind, text)
    return inner and key(LENGTH) .. written_varint(#inner) .. inner or ""
  end
  if kind == "bool" then return text == "true" and key(VARINT) .. "\1" or "" end
  local value = tonumber(text)
  if not value then return "" end
  if kind == "double" then return key(FIXED64) .. written_double(value) end
  return value >= 0 and key(VARINT) .. written_varint(math.floor(value)) or ""
end

-- A JSON object as a message; members that it does not have are left out. nil where the text is no object.
function wire_of(kind, text)
  local found, written = object(text), {}
  if not found then return nil end
  for number_of, shape in pairs(SHAPES[kind]) do
    local value = found[shape[1]]
    if given(value) then
      for _, each in ipairs(shape[3] and list(value) or { value }) do
        if given(each) then written[#written + 1] = field_of(number_of, shape[2], each) end
      end
    end
  end
  return table.concat(written)
end
