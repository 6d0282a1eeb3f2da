"""Hands jobs to worker processes, one job at a time each, and survives what they do."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from transpile.verify.jobs import FileJob, Mode, RunJob
from transpile.verify.worker import pack, receive, send

TIMEOUT = 900.0  # seconds for one job


class Worker:
    """A worker process for one mode. ``numerics`` ones run kernels in the interpreter."""

    def __init__(self, interpret: bool, cache: str) -> None:
        environment = dict(os.environ)
        for name in ("KT_INTERPRET", "TRITON_INTERPRET"):  # the latter in case torch imports triton
            environment.pop(name, None)
            if interpret:
                environment[name] = "1"
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


def run_jobs(
    jobs: Sequence[FileJob], processes: int, done: Callable[[int, list[Any]], None]
) -> None:
    """Run all jobs; ``done(index, answers)`` is called for each as it ends, in any order.

    Jobs of one mode run together, so that a process imports what its mode needs once.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in sorted(range(len(jobs)), key=lambda i: jobs[i].mode):
        waiting.put(index)
    lock = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="kt-verify-") as cache:

        def serve() -> None:
            worker: Worker | None = None
            mode: Mode | None = None
            try:
                while True:
                    try:
                        index = waiting.get_nowait()
                    except queue.Empty:
                        return
                    if worker is None or mode != jobs[index].mode or not worker.alive:
                        if worker is not None:
                            worker.close()
                        mode = jobs[index].mode
                        worker = Worker(mode == "numerics", cache)
                    answers = worker.run(jobs[index])
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
