"""The shims as generated modules find them: plain files on sys.path."""

import sys
from pathlib import Path

SHIMS = Path(__file__).parents[2] / "runtime_shims"
sys.path.insert(0, str(SHIMS))
