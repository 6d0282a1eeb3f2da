"""The Tile IR: nodes, sizes, dtypes, op table, printer, verifier, reference interpreter."""
