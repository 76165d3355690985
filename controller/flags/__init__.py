"""Feature flags: switches of an organisation that its programs read while they run."""
