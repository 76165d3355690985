"""Quotas: how much keys, users and organisations may use, and who has nothing left."""
