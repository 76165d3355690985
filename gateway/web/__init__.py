"""Pages that Envoy answers by itself."""
