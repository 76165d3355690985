"""How this machine runs a workload: one small port, and the runtime that starts plain processes."""
