"""The node's own Envoy: keeps connections to the gateway open, and hands what comes through them to the engines."""
