"""What inference requests used: taken from Envoy's access log, kept on disk, told to Kafka."""
