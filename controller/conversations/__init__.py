"""Conversations: rooms, what is said in them, and who hears of it."""
