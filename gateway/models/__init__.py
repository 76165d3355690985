"""Model routes: the routing table rendered for Envoy."""
