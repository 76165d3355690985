"""A cluster of real processes in network namespaces, faults injected for real, and checkers that say what held."""
