"""gRPC as every service of the mesh speaks it: servers, channels, errors, identity of the caller."""
