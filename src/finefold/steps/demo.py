"""`finefold demo`: the main job on images that are at hand."""

import tomllib
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any, Literal

import polars as pl
import tomli_w

from finefold.data.submission import write_csv
from finefold.data.synthetic import draw_portraits
from finefold.errors import DataError, RunError
from finefold.runs.folder import write_text
from finefold.steps.answers import Answers
from finefold.steps.init import init
from finefold.steps.progress import SILENT, Progress
from finefold.steps.reading import Data, read_data
from finefold.steps.run import Run
from finefold.steps.split import make, split
from finefold.steps.train import train

NUM_PEOPLE = 120
TEST_PARTS = 20


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Args:
        folder: everything lies here.
        run: the run.
        scores: its ledger in numbers.
        answers: predictions for the test images.
        submission: the answer file.
    """

    folder: Path
    run: Run
    scores: dict[str, Any]
    answers: Answers
    submission: Path


def elpv_folder() -> Path | None:
    """Where the elpv-dataset package keeps its images, if it is installed."""
    spec = util.find_spec("elpv_dataset")
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else None
    return folder if folder and (folder / "labels.csv").is_file() else None


def _hold_out(data: Data, folder: Path) -> Data:
    """Takes one part in twenty out of the labelled samples as a test set with an empty answer template."""
    held = make(data.samples, folds=TEST_PARTS, seed=0).frame.filter(pl.col("fold") == 0)["id"]
    template = pl.DataFrame({"image": held, "answer": ["0"] * len(held)})
    write_csv(template, folder / "test.csv")
    tables = tomllib.loads(data.file.read_text(encoding="utf-8"))
    tables["samples"]["ignore"] = held.to_list()
    tables["predict"] = {
        "root": str(data.samples.root),
        "template_csv": "test.csv",
        "id_column": "image",
        "answer_column": "answer",
        "extra": "ignore",
    }
    write_text(data.file, tomli_w.dumps(tables))
    return read_data(data.file)


def demo(
    *, data: Literal["elpv", "portraits"] = "elpv", out: str | Path = "finefold-demo", progress: Progress = SILENT
) -> Demo:
    """Images -> samples -> folds -> cached features -> heads -> ledger -> scores -> predictions -> submission.

    Raises:
        DataError: the elpv-dataset package is not installed.
        RunError: `out` exists.
    """
    folder = Path(out)
    if folder.exists():
        raise RunError(f"{folder} exists", "delete it, or give another --out")
    source = elpv_folder() if data == "elpv" else folder / "portraits"
    if source is None:
        raise DataError(
            "the elpv-dataset package is not installed",
            "pip install elpv-dataset, or draw portraits instead: finefold demo --data portraits",
        )
    if data == "portraits":
        with progress.stage("drawing portraits", NUM_PEOPLE, "people") as advance:
            draw_portraits(source, num_people=NUM_PEOPLE, seed=0, advance=advance)
    described = init(source, out=folder / "data.toml", progress=progress).data
    if data == "elpv":
        described = _hold_out(described, folder)
    folds = split(described, progress=progress).split
    run = train(described, folds, recipe="probe", out=folder / "run", progress=progress)
    answers = run.predict(progress=progress)
    said = run.spec.predict
    assert said is not None and said.template_csv is not None
    submission = answers.to_submission(run.spec.folder / said.template_csv, folder / "submission.csv")
    return Demo(folder, run, run.scores(), answers, submission)
