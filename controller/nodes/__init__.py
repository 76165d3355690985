"""The machines of the fleet."""
