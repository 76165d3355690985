"""Inference engines a node can run: one small file each, all behind the port in engine.py."""
