"""Pallas for TPUs: IR -> JAX modules."""
