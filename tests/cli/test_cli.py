"""What all commands share: help with an example, exit codes, streams, no traceback."""

import io
import json
import re
import signal
import time
from pathlib import Path

import pytest
import typer

import finefold
from finefold.cli import main as cli
from finefold.cli.main import app, main, parse_size
from finefold.cli.progress import Lines
from finefold.errors import FinefoldError
from offline.processes import finish, start

VERBS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", VERBS)
def test_help_holds_an_example(verb, capsys):
    """--help and -h of every verb go to stdout, exit 0, and hold an example of the verb."""
    for flag in ("--help", "-h"):
        assert main([verb, flag]) == 0
        said = capsys.readouterr()
        assert f"Example: finefold {verb}" in said.out
        assert not said.err


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_the_help_parses(verb, capsys):
    """The flags in a verb's example are flags that its help lists."""
    main([verb, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    listed, example = text.split("Example: ")
    assert set(re.findall(r"--[a-z-]+", example)) <= set(re.findall(r"--[a-z-]+", listed))


def test_help_names_every_verb(capsys):
    """`finefold --help` lists the verbs and says where to start."""
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(re.search(rf"^  {verb} ", said, re.M) for verb in VERBS)
    assert "Start with: finefold demo" in said


def test_without_a_command_the_help_is_shown(capsys):
    """Nothing asked for: the same as --help."""
    assert main([]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Usage: finefold")
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == said


def test_version(capsys):
    """--version prints the version alone."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{finefold.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument 'DATA.toml'"),
        (["train", "data.toml"], "Missing option '--out'"),
        (["split", "data.toml", "--folds", "many"], "Invalid value for '--folds': Input should be a valid integer"),
        (["evaluate", "run", "--jsno"], "No such option: --jsno"),
        (["demo", "--data", "cats"], "'cats' is not one of 'elpv', 'portraits'"),
        (["cache", "--clear", "--older-than", "-1"], "'--older-than'"),
    ],
)
def test_usage_mistakes_exit_2(arguments, said, capsys):
    """A mistaken invocation is told in one line with a hint to --help, on stderr, and exits 2."""
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert said in told.err
    assert "hint: `finefold" in told.err
    assert "--help` shows what can be said" in told.err
    assert not told.out


def test_a_missing_value_names_the_verb(capsys):
    """An option without its value: the hint leads to the help of the verb that was asked, not to the general one."""
    assert main(["train", "data.toml", "--out"]) == 2
    assert "`finefold train --help` shows what can be said" in capsys.readouterr().err


def test_errors_are_told_with_their_hint(monkeypatch, capsys):
    """A foreseen failure is `error: what`, a blank line, `hint: what to do`, and its own exit code."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise FinefoldError("what went wrong", "what to do")

    monkeypatch.setattr(cli, "app", fail)
    assert main(["x"]) == 1
    said = capsys.readouterr()
    assert said.err == "error: what went wrong\n\nhint: what to do\n"
    assert not said.out


def test_ctrl_c_exits_130_and_says_how_to_go_on(job, tmp_path):
    """Interrupted in the middle of the feature pass, a command ends soon, in words, with exit code 130."""
    process = start(
        *["-m", "finefold", "train", job.data, "--split", job.folder / "split.csv", "--out", "run"],
        *["--set", "model.engine=torch", "--set", "model.precision=fp32"],
        cwd=tmp_path,
        FINEFOLD_CACHE="cold",
        FINEFOLD_THREADS="1",
    )
    while not list(tmp_path.glob("cold/features/*/*.rows")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    done = finish(process, code=130)
    assert "interrupted: run the same command again, what was cached is reused" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_reader_that_leaves_is_no_error(job):
    """`finefold evaluate RUN | head -1` ends without a traceback."""
    process = start("-m", "finefold", "evaluate", job.run, cwd=job.folder)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2_000_000_000), ("500 mb", 500_000_000), ("1.5kB", 1500), ("7", 7), ("12B", 12)]
)
def test_sizes(text, size):
    """Sizes are read in decimal units, whatever their case."""
    assert parse_size(text) == size


def test_a_full_disk_is_told(job, tmp_path, monkeypatch, capsys):
    """A run that cannot be written says which file and why, and exits 1 without a traceback."""
    real = Path.write_text

    def write(path: Path, *arguments: object, **options: object) -> int:
        if path.is_relative_to(tmp_path):
            raise OSError(28, "No space left on device", str(path))
        return real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", write)
    arguments = ["train", str(job.data), "--out", str(tmp_path / "run"), "--set", "split.folds=3"]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert f"error: cannot write {tmp_path / 'run' / 'unfinished.json'}: No space left on device" in said.err
    assert "hint: free some space" in said.err


def test_json_is_one_document(job, capsys):
    """What --json prints is one JSON document and nothing else."""
    for arguments in (["evaluate", str(job.run), "--json"], ["cache", "--json"]):
        assert main(arguments) == 0
        assert isinstance(json.loads(capsys.readouterr().out), dict)


@pytest.mark.parametrize(("count", "rate"), [(8, "2 steps/s"), (1, "4.0 s for each of the steps")])
def test_a_slow_stage_tells_the_time_of_one(count, rate):
    """Below one in a second, a stage's line says how long each takes instead of 0/s."""
    told = io.StringIO()
    times = iter([0.0, *[4.0] * (count + 1)])
    with Lines(told, clock=lambda: next(times)).stage("training", count, "steps") as advance:
        for _ in range(count):
            advance(1)
    assert told.getvalue() == f"training: {count} steps in 4.0 s, {rate}\n"
