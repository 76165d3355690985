"""The ledger: what inference requests used, one row each, and their sums."""
