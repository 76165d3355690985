"""Invariants as functions: from what was recorded to the sentences that say what was violated; none is good."""
