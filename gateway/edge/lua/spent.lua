-- Answers requests of whom nothing is left of some limit. SPENT, by "subject|id|model", has {until = Unix seconds or 0 for
-- no end, budget = whether it is money, message = what is answered}.

local SUBJECTS = { api_key = "x-aiops-token-id", user = "x-aiops-user", organization = "x-aiops-org" }

local function refuse(handle, spent, now)
  local headers = { [":status"] = "429" }
  if spent["until"] > 0 then headers["retry-after"] = tostring(math.ceil(spent["until"] - now)) end
  -- What a client's library would repeat at once is of no use.
  if spent.budget then headers["x-should-retry"] = "false" end
  if string.find(handle:headers():get("x-aiops-call") or "", "^application/grpc") then
    headers["grpc-status"] = "8"
    return handle:respond(headers, spent.message)
  end
  headers["content-type"] = "application/json"
  if string.find(handle:headers():get(":path"), "^/v2/") then
    return handle:respond(headers, '{"error":' .. quoted(spent.message) .. "}")
  end
  local kind, code = "rate_limit_error", "rate_limit_exceeded"
  if spent.budget then kind, code = "insufficient_quota", "insufficient_quota" end
  local rest = ',"type":"' .. kind .. '","param":null,"code":"' .. code .. '"}}'
  handle:respond(headers, '{"error":{"message":' .. quoted(spent.message) .. rest)
end

function envoy_on_request(handle)
  local now, route = os.time(), handle:metadata()
  local model = route and route:get("model") or ""
  for subject, header in pairs(SUBJECTS) do
    local id = handle:headers():get(header)
    if id then
      for _, name in ipairs({ "", model }) do
        local spent = SPENT[subject .. "|" .. id .. "|" .. name]
        if spent and (spent["until"] == 0 or now < spent["until"]) then return refuse(handle, spent, now) end
      end
    end
  end
end
