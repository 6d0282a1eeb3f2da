"""Property tests run on shared machines: no deadlines per example."""

from hypothesis import settings

settings.register_profile("kt", deadline=None)
settings.load_profile("kt")
