"""The demonstration: the whole platform brought up, used like a client would, and taken down."""
