"""Model files read from other nodes, and offered to them."""
