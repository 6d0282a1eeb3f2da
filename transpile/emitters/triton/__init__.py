"""Tile IR to Triton source: one jit function per phase, the host function around the launches."""
