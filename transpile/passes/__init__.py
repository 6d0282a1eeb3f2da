"""Target-neutral rewrites and analyses of the Tile IR."""
