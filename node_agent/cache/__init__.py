"""The models that this machine has fetched, verified and kept."""
