"""Metal Shading Language on a CPU: a strict check, and a checked executor.

The source goes through a small pre-pass (what C++ cannot parse is rewritten, lines stay where they
are) and then to clang, with headers of our own in place of Metal's library. The strict check has
address spaces as types. The executor runs every thread of a threadgroup as a fiber and looks at
each access to memory before it happens. Packages needed: libclang and ziglang, from PyPI.
"""
