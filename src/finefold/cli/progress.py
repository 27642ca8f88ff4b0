"""Stages on stderr: bars with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from finefold.steps import progress as steps

SECONDS_BETWEEN_LINES = 5.0
SECONDS_WORTH_A_LINE = 2.0


class _RateColumn(ProgressColumn):
    """Units per second over the whole stage."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if not speed else _rate(speed, task.fields["unit"]), style="dim")


def _rate(speed: float, unit: str) -> str:
    """Units per second, or seconds for one of them where it takes longer."""
    return f"{speed:,.0f} {unit}/s" if speed >= 1 else f"{1 / speed:,.1f} s for each of the {unit}"


class Bars:
    """Progress bars on a terminal."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        task = self._bars.add_task(name, total=total or None, unit=unit)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._bars.advance(task, count)

        yield advance
        if total or done:
            self._bars.update(task, total=done, completed=done)
        else:  # nothing was counted: the stage was only there to be seen
            self._bars.remove_task(task)

    def say(self, line: str) -> None:
        """Prints above the bars."""
        self._bars.console.print(Text(line))


class Lines:
    """A line every few seconds and one when a stage ends, for logs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        start = last = self._clock()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            now = self._clock()
            if now - last >= SECONDS_BETWEEN_LINES:
                last = now
                left = f", {(total - done) * (now - start) / done:.0f} s left" if total and done else ""
                self.say(f"{name}: {done:,}{f' of {total:,}' if total else ''} {unit}{left}")

        yield advance
        seconds = self._clock() - start
        if not total and not done:
            if seconds >= SECONDS_WORTH_A_LINE:
                self.say(f"{name}: {seconds:.1f} s")
            return
        rate = f", {_rate(done / seconds, unit)}" if done and seconds > 0.05 else ""
        self.say(f"{name}: {done:,} {unit} in {seconds:.1f} s{rate}")

    def say(self, line: str) -> None:
        """One line, at once."""
        print(line, file=self._stream, flush=True)


@contextmanager
def progress() -> Iterator[steps.Progress]:
    """Progress on stderr, as fits where it goes."""
    if not sys.stderr.isatty():
        yield Lines(sys.stderr)
        return
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield Bars(bars)
