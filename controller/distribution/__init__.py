"""Which nodes have which model's files, so that nodes read from each other and the object storage is read once."""
