"""Routes by policy: names that lead to targets by share, rendered for Envoy."""
