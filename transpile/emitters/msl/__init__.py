"""Metal Shading Language: what one thread does, as a kernel function, and its host function."""
