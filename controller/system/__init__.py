"""The platform as a whole: is it well, how much is there, and what everyone should hear."""
