"""How busy replicas are, as Envoy counts it, and the requests that wait for models to wake."""
