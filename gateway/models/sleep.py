"""How the waiting room and Envoy's routes understand each other: by headers between them that no client sees."""

# The model is awake: Envoy sends the request to its cluster again, which leads to an instance by now.
AWAKE = "x-aiops-awake"
# The answer is for the client, whatever else is tried again.
NO_RETRY = "x-envoy-ratelimited"
SENT_ON_AT_MOST = 10
