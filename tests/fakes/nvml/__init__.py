"""A stand-in for NVIDIA's management library, whose GPUs fail and hang as a file says."""
