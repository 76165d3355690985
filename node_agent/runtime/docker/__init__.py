"""The runtime of containers on Docker Engine, which may come and go while the agent runs."""
