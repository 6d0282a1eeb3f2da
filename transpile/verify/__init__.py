"""Proof harnesses: generated code compiled by its target's own compiler and run against two
references, without the device. Knows the IR and generated text only."""
