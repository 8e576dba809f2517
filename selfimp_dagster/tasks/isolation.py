"""Scoring in a process of its own, which can be ended whatever it is doing.

A response such as 9**9**9**9 makes sympy compute inside one C call, which neither a signal handler nor
another thread can interrupt. The worker arms a timer whose signal ends it, so the limit also holds
when it runs unattended, and it ends with the process that started it, because its input does.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import selfimp_dagster
from selfimp_dagster.tasks import scoring

MEMORY_BYTES = 4 * 2**30


class ScoringFailed(Exception):
    """What the scorer raised, or that its process died, in words."""


class ScoringProcess:
    """One worker process, started when first needed and again after it was ended. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def call(self, request: dict[str, Any], time_limit: float) -> tuple[float, str | None]:
        """The worker's answer to a request of `scoring.call`.

        Args:
            time_limit: seconds that the judging may take, without the worker's start.

        Raises:
            TimeoutError: it took longer.
            ScoringFailed: the scorer raised, or the worker died.
        """
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps({**request, "time_limit": time_limit}) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BaseException:
                # The answer on its way would be taken for that of the next request.
                self._end()
                raise
            if not line:
                code = process.wait()
                self._end()
                if code == -signal.SIGALRM:
                    raise TimeoutError(f"took longer than {time_limit:g} s")
                raise ScoringFailed(f"the scoring process ended with code {code}")
        reply = json.loads(line)
        if "raised" in reply:
            raise ScoringFailed(reply["raised"])
        return reply["value"], reply["answer"]

    def close(self) -> None:
        """Ends the worker, if there is one."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            root = str(Path(selfimp_dagster.__file__).parents[1])
            path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._process = None


def serve() -> None:
    """The worker: one JSON request per line of standard input, one JSON reply per line of output."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what scorers print must not be taken for a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    _limit_memory()
    for line in sys.stdin:
        print(json.dumps(_reply(json.loads(line))), file=replies, flush=True)


def _reply(request: dict[str, Any]) -> dict[str, Any]:
    try:
        scoring.prepare(request)
        signal.setitimer(signal.ITIMER_REAL, request["time_limit"])
        value, answer = scoring.call(request)
        return {"value": value, "answer": answer}
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit_memory() -> None:
    import resource

    # Not every platform lets a process bound its address space.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


_process = ScoringProcess()


def scoring_process() -> ScoringProcess:
    """The worker that this process shares among its threads."""
    return _process


def _renew() -> None:
    global _process
    _process = ScoringProcess()


# A forked child must neither write into its parent's worker nor inherit a lock that is held.
os.register_at_fork(after_in_child=_renew)
atexit.register(lambda: _process.close())


if __name__ == "__main__":
    serve()
