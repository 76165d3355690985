"""Who may do what: organisations, users, sessions, API keys and the keys that sign their tokens."""
