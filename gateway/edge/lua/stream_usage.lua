-- Asks for the counts of a stream where the client does not, and keeps from the client the event that has them.
-- ADDED is what such a request then begins with; the route's metadata say whether its targets know it.

local NOTES = "aiops.stream_usage"
local LONGEST_EVENT = 1024 * 1024
local INCLUDED = '"include_usage":true'

-- The text with the value between two positions replaced.
local function replaced(text, from, behind, value)
  return string.sub(text, 1, from - 1) .. value .. string.sub(text, behind)
end

-- The request at `start` with counts asked for; nil where they are already. `options` is where `stream_options` stands.
local function with_usage(text, start, options)
  if not options then return ADDED .. string.sub(text, start + 1) end
  if string.byte(text, options) ~= 123 then
    local behind = value_end(text, options)
    return string.sub(text, options, behind - 1) == "null" and replaced(text, options, behind, "{" .. INCLUDED .. "}") or nil
  end
  local from, behind
  for member, value, stop in members(text, options) do
    if member == "include_usage" then from, behind = value, stop end
  end
  if from then return string.sub(text, from, behind - 1) ~= "true" and replaced(text, from, behind, "true") or nil end
  local first = skip_space(text, options + 1)
  return replaced(text, first, first, INCLUDED .. (string.byte(text, first) == 125 and "" or ","))
end

-- For a request that streams; the route it goes by is known.
local function ask_for_usage(handle, text, start, options)
  local route = handle:metadata()
  local path = string.match(handle:headers():get(":path"), "^[^?]*")
  if not route:get("stream_usage") or not (string.find(path, "/completions$") or string.find(path, "/inference$")) then return end
  local asking = with_usage(text, start, options)
  if not asking then return end
  handle:body():setBytes(asking)
  handle:headers():remove("accept-encoding")  -- the answer is read here
  handle:streamInfo():dynamicMetadata():set(NOTES, "asked", true)
end

-- Whether an event has counts and nothing else.
local function is_counts(event)
  local start, choices, usage = string.find(event, "{", 1, true), nil, nil
  if not start then return false end
  for member, value, behind in members(event, start) do
    if member == "choices" then choices = string.sub(event, value, behind - 1) end
    if member == "usage" then usage = string.byte(event, value) end
  end
  return choices == "[]" and usage == 123
end

local function ends_an_event(bytes)
  local third, second, last = string.byte(bytes, -3, -1)
  if #bytes == 2 then second, last = third, second end
  return last == 10 and (second == 10 or (second == 13 and third == 10))
end

-- Takes bytes of a stream as they come and answers those that go on, nil for all of them; none are its end. What begins an
-- event waits for the rest of it: no client does anything with less. `data: [DONE]` waits for nothing.
local function usage_remover()
  local held = ""
  return function(bytes)
    if held == "" and not string.find(bytes, "[]", 1, true) and ends_an_event(bytes) then return nil end
    local text, out, from = held .. bytes, {}, 1
    while true do
      local _, stop = string.find(text, "\n\r?\n", from)
      if not stop then break end
      local event = string.sub(text, from, stop)
      if not string.find(event, "[]", 1, true) or not is_counts(event) then out[#out + 1] = event end
      from = stop + 1
    end
    held = string.sub(text, from)
    if bytes == "" or #held > LONGEST_EVENT or string.find(held, "^data: ?%[") then
      out[#out + 1], held = held, ""
    end
    return table.concat(out)
  end
end

local function remove_usage(handle)
  local headers = handle:headers()
  if not string.find(headers:get("content-type") or "", "^text/event%-stream") then return end
  if not handle:streamInfo():dynamicMetadata():get(NOTES) then return end
  headers:remove("content-length")
  local remove = usage_remover()
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    local rest = remove(length > 0 and chunk:getBytes(0, length) or "")
    if rest then chunk:setBytes(rest) end
  end
end
