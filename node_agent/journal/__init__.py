"""What the agent must remember over its own death: a small checksummed file."""
