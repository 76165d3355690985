"""Tunnels: how requests reach engines on nodes that nobody can dial, over connections which the nodes open."""
