"""The embedded stack: the whole mesh as processes of one machine."""
