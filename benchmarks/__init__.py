"""Speed and memory claims, each measured beside its peer in one run; the last line of output is one JSON object."""
