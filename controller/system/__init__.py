"""The platform itself: whether it works, how much it holds, and what everybody is told."""
