"""The model registry: what can be deployed, and the files it is made of."""
