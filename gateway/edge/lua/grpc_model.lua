-- Leads a call of the Open Inference Protocol to the model that its first message names.

function envoy_on_request(handle)
  local found = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.grpc_field_extraction")
  local names = found and (found["model_name"] or found["name"])
  local name = names and names[1]
  if not name or not string.find(name, "^[!-~]+$") then name = "" end
  local headers = handle:headers()
  headers:replace("x-aiops-model", name == "" and "!missing" or name)
  headers:replace("x-aiops-route", (headers:get("x-aiops-org") or "") .. "/" .. name)
end
