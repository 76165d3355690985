"""The public port: listener, filters, API routes, error bodies and Envoy's own bootstrap."""
