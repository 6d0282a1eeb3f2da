"""Generated functions under jax.shard_map, on four CPU devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def test_four_devices(jax: Any) -> None:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "KT_INTERPRET": "1",
        "PYTHONPATH": str(HERE.parents[1] / "runtime_shims"),
    }
    command = [sys.executable, str(HERE / "sharded.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:3] == [
        "rows ok 4 devices", "inner ok 4 devices", "in place ok 4 devices",
    ]  # fmt: skip
