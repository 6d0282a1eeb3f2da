"""The torch side of the reference interpreter; imported by ``transpile.ir.interpreter`` only."""
