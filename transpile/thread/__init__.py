"""The thread-level lowering that CuTe and Metal share."""
