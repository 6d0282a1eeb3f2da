"""kt: tile-language kernels in, the source a specialist would have written out."""

__version__ = "0.1.0"
