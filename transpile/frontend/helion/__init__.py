"""The Helion dialect: kernels of a file to Tile IR."""

from __future__ import annotations

from transpile.frontend.helion import quantized  # registers its functions
from transpile.frontend.helion.driver import lower_file

__all__ = ["lower_file", "quantized"]
