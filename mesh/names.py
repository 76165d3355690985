"""What the mesh's parts call each other in certificates and in TLS, whatever addresses they have."""

TRUST_DOMAIN = "aiops"
NODE_PREFIX = f"spiffe://{TRUST_DOMAIN}/node/"
GATEWAY = f"spiffe://{TRUST_DOMAIN}/service/gateway"
# Server names of what nodes dial. One address may serve all three: the name says which is meant.
SESSION_NAME, JOIN_NAME, TUNNEL_NAME = (f"{part}.{TRUST_DOMAIN}" for part in ("session", "join", "tunnel"))
