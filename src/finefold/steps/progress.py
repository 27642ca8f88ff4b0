"""How a step says what it is doing, without printing."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Told of long stages and of things worth a line."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        """A stage of `total` units; the context's value is told how many were done since."""
        ...

    def say(self, line: str) -> None:
        """One line for the person who waits."""
        ...


class Silent:
    """Says nothing."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        yield lambda _done: None

    def say(self, line: str) -> None:
        """Drops the line."""


SILENT = Silent()


class Lines(Silent):
    """Another's lines without stages: for what runs inside a stage.

    Args:
        of: who is told the lines.
    """

    def __init__(self, of: Progress) -> None:
        self._of = of

    def say(self, line: str) -> None:
        """Passes the line on."""
        self._of.say(line)
