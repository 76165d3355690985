"""Autoscaling: how many replicas a set has follows what gateways and engines say of its load."""
