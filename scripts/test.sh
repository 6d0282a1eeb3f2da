#!/bin/sh
# Everything that a change must pass, in the order in which it is cheapest to fail.
# Needs `pip install -e ".[triton,pallas,metal,test,dev]"`. JOBS=n sets the number of processes (default 2).
set -eu
cd "$(dirname "$0")/.."
jobs="${JOBS:-2}"

step() {
    echo "== $*"
    "$@"
}

step ruff check .
step ruff format --check .
step mypy
step lint-imports --no-logo
step kt build "examples/*.py" -t triton,pallas,metal -o golden --check
step pytest -q -n "$jobs"
step kt verify "examples/*.py" -t triton -j "$jobs"
step kt verify "examples/*.py" -t metal -j "$jobs"
step kt verify "examples/*.py" -t pallas -j "$jobs"
