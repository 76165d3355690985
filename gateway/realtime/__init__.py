"""The gateway's sockets: conversations over WebSocket, behind Envoy. `python -m gateway.realtime` runs it."""
