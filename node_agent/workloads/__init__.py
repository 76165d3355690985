"""What runs on this machine: each workload driven from what is to what should be."""
