"""The controller: the only writer of platform state."""
