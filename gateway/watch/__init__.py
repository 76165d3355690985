"""What the gateway learns from the other services, kept as they send it."""
