"""The shared kernel: what every service of the mesh needs and no service owns."""
