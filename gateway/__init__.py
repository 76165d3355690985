"""The gateway: owns Envoy, renders API routes and the routing table to xDS."""
