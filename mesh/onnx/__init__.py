"""What an ONNX model takes, gives and asks of its server: read at import by the registry, at launch by the node."""
