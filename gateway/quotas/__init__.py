"""Quotas: what the routing table and the ledger say of them, rendered for Envoy."""
