"""Replica sets: so many instances of a model, kept running and rolled out without a failed request."""
