"""Running models: where they go, what their nodes are told, and what became of them."""
