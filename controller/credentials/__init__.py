"""Credentials: what the platform shows to providers outside."""
