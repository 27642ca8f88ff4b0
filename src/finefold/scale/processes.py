"""Jobs in processes of their own, each with its share of the processors.

A worker is `python -m MODULE`: it reads a job as a JSON line from stdin, writes JSON lines about it to stdout, the last
of them `{"kind": "done"}` or `{"kind": "error", ...}`, and ends when stdin does. So it ends when its parent does,
however that ended, and a program that trains needs no `if __name__ == "__main__"`.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

from finefold.data.machine import num_threads
from finefold.errors import FinefoldError, TrainingError

Message = dict[str, Any]
_SECONDS_TO_SAVE = 20.0
# glibc hands every large tensor back to the kernel and asks for it anew in the next step: keep it, 15-20 % faster
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**27)}


def num_workers(num_jobs: int) -> int:
    """As many processes as processors, and never more than jobs."""
    return max(1, min(num_jobs, num_threads()))


def threads_each(num_jobs: int) -> int:
    """Threads of one of so many jobs' workers: together they use every processor, once."""
    return max(1, num_threads() // num_workers(num_jobs))


class Workers:
    """Processes that take jobs, as many as there are processors and never more than jobs; in a `with` block.

    They start with the first job and stay until the block ends, so that what a worker loads is loaded once.

    Args:
        module: whose `python -m` is a worker.
        num_jobs: the most that are run at one time.
    """

    def __init__(self, module: str, num_jobs: int) -> None:
        self._module, self._num_jobs = module, num_jobs
        self._said: queue.Queue[tuple[int, Message]] = queue.Queue()
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()

    def __len__(self) -> int:
        return num_workers(self._num_jobs)

    def run(self, jobs: Sequence[Message], tell: Callable[[Message], None]) -> None:
        """Runs jobs side by side and returns when all are done.

        Args:
            jobs: JSON values.
            tell: told what workers say, in this thread.

        Raises:
            FinefoldError: a job's own error; the other jobs are stopped, and save where they are.
            TrainingError: a worker died.
        """
        waiting = list(jobs)
        self._start(min(len(self), len(jobs)))
        busy = 0
        for worker in self._workers[: len(jobs)]:
            worker.send(waiting.pop(0))
            busy += 1
        while busy:
            number, message = self._said.get()
            if message["kind"] == "error":
                raise _error(message)
            if message["kind"] != "done":
                tell(message)
            elif waiting:
                self._workers[number].send(waiting.pop(0))
            else:
                busy -= 1

    def _start(self, count: int) -> None:
        for number in range(len(self._workers), count):
            self._workers.append(_Worker(self._module, threads_each(self._num_jobs), number, self._said))


def _error(message: Message) -> FinefoldError:
    import finefold.errors

    kind = getattr(finefold.errors, str(message["type"]), TrainingError)
    return kind(message["message"], message["hint"])


class _Worker:
    """One process, and the thread that listens to it."""

    def __init__(self, module: str, threads: int, number: int, said: "queue.Queue[tuple[int, Message]]") -> None:
        environment = {
            **os.environ,
            "FINEFOLD_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            **{name: os.environ.get(name, value) for name, value in _KEEP_MEMORY.items()},
        }
        self._number, self._said = number, said
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is the parent's; the worker saves when the parent lets go of it
        )
        self._is_stopped = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, job: Message) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died: the listener tells
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._said.put((self._number, json.loads(line)))
        code = self._process.wait()
        if not self._is_stopped:
            what = f"was killed (signal {-code})" if code < 0 else f"ended with exit code {code}"
            hint = "run the same command again: it goes on from what was saved"
            if code == -signal.SIGKILL:
                hint = f"perhaps memory ran out: set a smaller train.batch_size, or {hint}"
            error = {"kind": "error", "type": "TrainingError", "message": f"a worker process {what}", "hint": hint}
            self._said.put((self._number, error))

    def stop(self) -> None:
        """Lets the worker save and end."""
        self._is_stopped = True
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(_SECONDS_TO_SAVE)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._listener.join()


def serve(work: Callable[[Message, Callable[[Mapping[str, Any]], None], threading.Event], None]) -> None:
    """A worker's whole life: takes jobs from stdin until it ends.

    Args:
        work: does a job, tells about it, and returns early once the event says that the parent has let go.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints goes to stderr
    stop, jobs = threading.Event(), _Jobs(sys.stdin)
    threading.Thread(target=jobs.listen, args=(stop,), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def tell(message: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):
            answers.write(json.dumps(message) + "\n")
            answers.flush()

    for job in jobs:
        try:
            work(job, tell, stop)
        except FinefoldError as error:
            tell({"kind": "error", "type": type(error).__name__, "message": error.message, "hint": error.hint})
            return
        if stop.is_set():
            return
        tell({"kind": "done"})


class _Jobs:
    """Jobs as a stream gives them; when it ends, the stop is set at once, whatever is being worked on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._jobs: queue.Queue[Message | None] = queue.Queue()

    def listen(self, stop: threading.Event) -> None:
        """Reads until the stream ends."""
        for line in self._stream:
            self._jobs.put(json.loads(line))
        stop.set()
        self._jobs.put(None)

    def __iter__(self) -> Iterator[Message]:
        while (job := self._jobs.get()) is not None:
            yield job
