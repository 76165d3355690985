"""The routing table: compiled from the controller's replicas, served to the gateway."""
