"""Python processes that exit 1 when they try to leave this machine."""

import os
import subprocess
import sys
from pathlib import Path

GUARD = Path(__file__).parent

Done = subprocess.CompletedProcess[str]


def _search_path() -> str:
    """The guard before whatever this process itself was told: the same source is run."""
    return os.pathsep.join([str(GUARD), *filter(None, [os.environ.get("PYTHONPATH")])])


def start(*arguments: object, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Python with these arguments, under guard."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": _search_path(), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], *, code: int | None = 0) -> Done:
    """What a process said, once it has ended with `code` (None: whichever)."""
    stdout, stderr = process.communicate(timeout=300)
    done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    assert code is None or done.returncode == code, f"exit code {done.returncode}\n{stdout[-2000:]}\n{stderr[-4000:]}"
    return done


def run_finefold(*arguments: object, cwd: Path, code: int | None = 0, **environment: str) -> Done:
    """One command of finefold, as a user's shell runs it."""
    return finish(start("-m", "finefold", *arguments, cwd=cwd, **environment), code=code)
