"""Tile IR to thread IR: what each thread does, for targets that write one thread's code."""
