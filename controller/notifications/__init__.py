"""Notifications: what people should hear of, told from the platform's own events."""
