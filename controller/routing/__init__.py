"""Routing: models as clients see them, and which of them a task is for."""
