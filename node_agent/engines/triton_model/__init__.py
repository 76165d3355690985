"""What runs inside Triton's Python backend: copied into each model repository, never imported by the agent."""
