"""Hands jobs to worker processes, one job at a time each, and survives what they do."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from transpile.verify.harnesses import HARNESSES, OWN_VARIABLES
from transpile.verify.jobs import Cell, FileJob, Mode, RunJob
from transpile.verify.worker import pack, receive, send

TIMEOUT = 900.0  # seconds for one job


class Worker:
    """A worker process with the ``variables`` of its harness in its environment."""

    def __init__(self, variables: Mapping[str, str], cache: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in OWN_VARIABLES}
        environment |= variables
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        paths = [package, environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        environment["TRITON_CACHE_DIR"] = cache
        environment.setdefault("OMP_NUM_THREADS", "1")  # the processes are what runs in parallel
        # -P: a user's copy.py in the working directory hides no module
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", "transpile.verify.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip

    def run(self, job: FileJob | RunJob, timeout: float = TIMEOUT) -> list[Any]:
        """All answers; a str last says why there are no more. A dead worker is one such reason."""
        found: list[Any] = []
        try:
            message = pack(job)
        except Exception as exc:  # noqa: BLE001 - what cannot be sent is a failure like another
            return [f"the job cannot be handed over: {type(exc).__name__}: {exc}"]
        timer = threading.Timer(timeout, self.process.kill)
        timer.start()
        try:
            send(self._stream(self.process.stdin), message)
            while (answer := receive(self._stream(self.process.stdout))) is not None:
                found.append(answer)
        except (EOFError, BrokenPipeError):
            code = self.process.wait()
            late = not timer.is_alive()
            found.append(
                f"no answer within {timeout:.0f} s" if late else f"the process died (exit {code})"
            )
        finally:
            timer.cancel()
        return found

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """End the process."""
        if self.alive:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.wait()

    @staticmethod
    def _stream(stream: Any) -> BinaryIO:
        assert stream is not None
        return stream  # type: ignore[no-any-return]


def _kind(job: FileJob) -> tuple[Mode, str]:
    return job.mode, job.target


def _cells(found: Sequence[Any]) -> list[Cell]:
    return [answer for answer in found if isinstance(answer, Cell)]


def _rest(job: FileJob, found: Sequence[Any]) -> tuple[FileJob | None, list[Cell]]:
    """What of a job is left when its process died: the kernels behind the one that killed it, whose
    missing cells fail for the reason that is the last answer."""
    cells = _cells(found)
    row = max((cell.row for cell in cells), default=job.first)
    columns = job.columns(row)
    known = {cell.column for cell in cells if cell.row == row}
    if known.issuperset(columns):
        row, known = row + 1, set()
    if row >= len(job.kernels):
        return None, []
    failed = [Cell(row, c, "fail", str(found[-1])) for c in job.columns(row) if c not in known]
    left = replace(job, first=row + 1) if row + 1 < len(job.kernels) else None
    return left, failed


def run_jobs(
    jobs: Sequence[FileJob], processes: int, done: Callable[[int, list[Any]], None]
) -> None:
    """Run all jobs; ``done(index, answers)`` is called for each as it ends, in any order.

    Jobs of one target and mode run together, so that a process imports what they need once. Where
    a kernel kills the process, the kernels behind it go to another one.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in sorted(range(len(jobs)), key=lambda i: _kind(jobs[i])):
        waiting.put(index)
    lock = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="kt-verify-") as cache:

        def serve() -> None:
            worker: Worker | None = None
            kind: tuple[Mode, str] | None = None
            try:
                while True:
                    try:
                        index = waiting.get_nowait()
                    except queue.Empty:
                        return
                    answers: list[Any] = []
                    job: FileJob | None = jobs[index]
                    while job is not None:
                        if worker is None or kind != _kind(job) or not worker.alive:
                            if worker is not None:
                                worker.close()
                            kind = _kind(job)
                            worker = Worker(
                                HARNESSES[job.target].environments.get(job.mode, {}), cache
                            )
                        found = worker.run(job)
                        job, failed = (None, []) if worker.alive else _rest(job, found)
                        answers += [*found, *failed] if job is None else [*_cells(found), *failed]
                    with lock:
                        done(index, answers)
            finally:
                if worker is not None:
                    worker.close()

        threads = [threading.Thread(target=serve) for _ in range(min(processes, len(jobs)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
