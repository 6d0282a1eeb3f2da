"""Every example lowered to threads and run, all threads of all groups, against the IR's interpreter."""

import dataclasses
import glob
import os

import pytest

from tests.thread.programs import LIMITS, differences, has_products, load_example, lower_kernel

FILES = sorted(glob.glob(os.path.join(os.path.dirname(__file__), "..", "..", "examples", "*.py")))


@pytest.mark.parametrize("path", FILES, ids=lambda p: os.path.basename(p)[:-3])
def test_examples_run_by_threads_agree(path):
    loaded = load_example(path)
    for kernel in loaded.kernels:
        lowered = lower_kernel(kernel)
        lowered.check()
        for phase in lowered.phases:
            assert phase.threads <= LIMITS.max_threads
            assert phase.shared_bytes <= LIMITS.shared_bytes
        # products are slow to interpret; all their shapes are run from their Metal code
        for shape in [1] if has_products(kernel) else range(3):
            assert differences(lowered, loaded.project, shape) == [], (
                kernel.name,
                kernel.signature,
                shape,
            )


@pytest.mark.parametrize(
    "name", ["softmax", "layer_norm", "matmul", "matmul_epilogue", "attention"]
)
def test_open_numbers_change_no_result(name):
    # a thread's registers of a row, its vectors and SIMD groups as loops whatever there are of them
    loaded = load_example(next(f for f in FILES if f.endswith(f"/{name}.py")))
    for kernel in loaded.kernels:
        lowered = lower_kernel(kernel, dataclasses.replace(LIMITS, uniform=True))
        lowered.check()
        assert differences(lowered, loaded.project, 1) == [], (kernel.name, kernel.signature)
