"""The inference router: turns the instances that run into one routing table, and never sees an inference byte."""
