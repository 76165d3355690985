"""Where deployments go: what they need, what nodes have left, and the choice between them."""
