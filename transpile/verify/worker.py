"""A process that proves: jobs come in on stdin, what came out goes to stdout.

torch and triton are imported once per process. Each message is a length and a pickle; both ends
are kt's own. What user code prints goes to stderr.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from transpile.verify.jobs import FileJob, RunJob


def pack(message: Any) -> bytes:
    """A message as bytes."""
    data = pickle.dumps(message)
    return struct.pack("<Q", len(data)) + data


def send(stream: BinaryIO, message: bytes) -> None:
    """Write one packed message."""
    stream.write(message)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one message; EOFError where the other end is gone."""
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    (size,) = struct.unpack("<Q", head)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)


def answers(job: FileJob | RunJob) -> Iterator[Any]:
    """The messages for a job, one by one; an exception's description is the last one."""
    from transpile.verify import numerics
    from transpile.verify.harnesses import HARNESSES

    try:
        if isinstance(job, RunJob):
            yield HARNESSES[job.target].call(job)
        else:
            yield from HARNESSES[job.target].check(job)
    except Exception as exc:  # noqa: BLE001 - the parent reports it
        yield numerics.describe(exc)


def main() -> None:
    """Serve jobs until stdin ends. None marks the end of a job's answers."""
    jobs, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            job = receive(jobs)
        except EOFError:
            return
        for answer in answers(job):
            send(replies, pack(answer))
        send(replies, pack(None))


if __name__ == "__main__":
    main()
