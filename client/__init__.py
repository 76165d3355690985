"""Thin clients of the platform for Python programs."""
