"""What goes wrong again and again with splits, roles and answers: found by the doctor, or impossible from the start."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

import finefold as ff
from finefold.data.synthetic import draw_portraits
from finefold.errors import DataError, RunError
from finefold.steps.init import init
from finefold.steps.reading import read_data
from finefold.steps.split import split

Photo = tuple[str, int]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """210 photos of 30 drawn people, with a data.toml."""
    folder = tmp_path_factory.mktemp("people")
    draw_portraits(folder / "set", num_people=30, num_test=70, size_px=(72, 96), seed=1)
    init(folder / "set", out=folder / "data.toml")
    return folder


@pytest.fixture(scope="module")
def photos(people: Path) -> list[Photo]:
    """Each photo's path, and whether a mask is worn (0), worn wrongly (1) or not (2)."""
    kinds = {"incorrect_mask": 1, "normal": 2}
    paths = sorted(map(str, (people / "set" / "train" / "images").rglob("*.*")))
    return [(path, kinds.get(Path(path).stem, 0)) for path in paths]


class Photos(Dataset):
    """What people write."""

    def __init__(self, photos: Sequence[Photo], transform=None) -> None:
        self.samples, self.transform = list(photos), transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        path, label = self.samples[row]
        image = torch.from_numpy(cv2.imread(path)[:, :, ::-1].copy()).permute(2, 0, 1).float() / 255
        return (image if self.transform is None else self.transform(image)), label


def flipped(image: torch.Tensor) -> torch.Tensor:
    """At random."""
    return image.flip(2) if torch.rand(1) < 0.5 else image


def apart(photos: Sequence[Photo]) -> tuple[list[Photo], list[Photo]]:
    """Training and validation without a person in both."""
    return list(photos[:140]), list(photos[140:])


def kinds(diagnosis: ff.Diagnosis) -> set[tuple[str, str]]:
    return {(one.kind, one.severity) for one in diagnosis.findings}


def found(diagnosis: ff.Diagnosis, kind: str) -> ff.Finding:
    return next(one for one in diagnosis.findings if one.kind == kind)


def test_clean_data_has_no_error(people):
    """Drawn people with their folders as groups: what tearing them would claim is told, and nothing is wrong."""
    said = ff.diagnose(people / "data.toml", only=["honesty", "shift", "contract"])
    assert said.is_sound and all(check.is_done for check in said.checks)
    assert found(said, "group-leak").severity == "info"


def test_one_person_on_both_sides(people):
    """A split that was made without regard to people: groups are suggested, with the score torn and whole."""
    toml = people / "alone.toml"
    toml.write_text((people / "data.toml").read_text().replace('group = "folder"\n', ""))
    leak = found(ff.diagnose(toml, only=["honesty"]), "group-leak")
    assert leak.severity == "warning" and leak.evidence["grouping"].startswith("the ")
    assert leak.evidence["random"] > leak.evidence["grouped"] + 0.1
    torn = ff.read_data(people / "data.toml")
    random = pl.DataFrame({"id": torn.samples.ids, "fold": np.arange(len(torn.samples)) % 3})
    random.with_columns(group="id").write_csv(people / "data.split.csv")
    try:
        leak = found(ff.diagnose(people / "data.toml", only=["honesty"]), "split-leak")
    finally:
        (people / "data.split.csv").unlink()
    assert leak.severity == "error" and leak.evidence["torn_groups"] == 30 and len(leak.ids) == 210


def test_the_same_photo_in_two_folds_and_in_the_test_set(people, tmp_path):
    """One file under several people, and a labelled file among the images to be predicted."""
    shutil.copytree(people / "set", tmp_path / "set")
    folders = sorted((tmp_path / "set" / "train" / "images").iterdir())
    same = next(folders[0].glob("normal.*"))
    for folder in folders[1:8]:
        shutil.copy(same, folder / f"mask1{same.suffix}")
    tests = sorted((tmp_path / "set" / "eval" / "images").iterdir())
    shutil.copy(next(folders[9].glob("normal.*")), tests[0])
    init(tmp_path / "set", out=tmp_path / "data.toml")
    said = ff.diagnose(tmp_path / "data.toml", only=["honesty"])
    assert found(said, "exact-duplicate").evidence["rows"] >= 8
    leak = found(said, "split-leak")  # there are no folds yet
    assert leak.severity == "warning" and "no split keeps the two together: they would be trained on" in leak.cause
    split(read_data(tmp_path / "data.toml"), folds=3)
    said = ff.diagnose(tmp_path / "data.toml", only=["honesty"])
    leak = found(said, "split-leak")
    assert leak.severity == "error" and leak.evidence["exact"] > 0
    least = "at least " if "the likeliest of" in said.checks[0].says else ""
    assert leak.cause.startswith(f"{least}{len(leak.ids)} images")
    test = found(said, "test-in-train")
    assert test.severity == "error" and test.evidence["exact"] == 1
    assert tests[0].name in test.ids


def test_validation_is_augmented(photos):
    """Two Subsets of one augmented data set; here roles have data sets of their own, and that is sound."""
    whole = Photos(photos, flipped)
    said = ff.diagnose((Subset(whole, range(140)), Subset(whole, range(140, 210))), only=["contract"])
    assert not said.is_sound and "share one `Photos` object" in found(said, "contract-broken").cause
    train, valid = apart(photos)
    said = ff.diagnose((Photos(train, flipped), Photos(valid)), only=["honesty", "shift", "contract"])
    assert said.is_sound and not {kind for kind, _ in kinds(said)} & {"contract-broken", "split-leak", "test-shift"}


def test_the_second_data_set_contains_the_first_ones_rows(photos):
    """A list on the class: the doctor names the list, and that both hold the same rows."""

    class Kept(Photos):
        samples: list[Photo] = []  # noqa: RUF012 - this is the mistake

        def __init__(self, photos: Sequence[Photo]) -> None:
            self.transform = None
            self.samples.extend(photos)

    train, valid = apart(photos)
    said = ff.diagnose((Kept(train), Kept(valid)), only=["honesty", "contract"])
    assert "`Kept.samples`" in found(said, "contract-broken").cause
    assert found(said, "split-leak").evidence["share"] == 1.0


def test_test_images_are_preprocessed_otherwise(photos, runs, tmp_path):
    """Of a pair: another scale. Of a run: what was scored comes back the same way, and other weights do not."""
    train, valid = apart(photos)
    said = ff.diagnose((Photos(train), Photos(valid, lambda image: (image - 0.45) / 0.05)), only=["contract"])
    assert found(said, "contract-broken").evidence["what"] == "scale"
    said = ff.diagnose(runs / "joint", only=["contract"])
    assert said.is_sound and "decoded anew: probabilities differ by at most" in said.checks[0].says
    shutil.copytree(runs / "joint", tmp_path / "mixed")
    shutil.copy(runs / "weak" / "fold-1" / "weights.safetensors", tmp_path / "mixed" / "fold-1" / "weights.safetensors")
    broken = found(ff.diagnose(tmp_path / "mixed", only=["contract"]), "contract-broken")
    assert broken.severity == "error" and (broken.evidence["what"], broken.evidence["fold"]) == ("round trip", 1)


def test_classes_are_permuted(photos, tmp_path):
    """Another numbering in validation is found by the images; class folders are numbered in natural order here."""
    train, valid = apart(photos)
    moved = [(path, (label + 1) % 3) for path, label in valid]
    broken = found(ff.diagnose((Photos(train), Photos(moved)), only=["contract"]), "contract-broken")
    assert broken.evidence["renamed"]["0"] == "1" and broken.evidence["best"] > broken.evidence["current"] + 0.3
    for number in (0, 1, 2, 10):
        (tmp_path / "set" / str(number)).mkdir(parents=True)
        for place in range(2):
            shutil.copy(photos[number * 2 + place][0], tmp_path / "set" / str(number))
    assert init(tmp_path / "set", out=tmp_path / "data.toml").data.space.class_names == ("0", "1", "2", "10")


def test_rows_are_dropped_in_evaluation(photos):
    """drop_last in the loader of validation is an error; here every sample is in the ledger once."""
    train, valid = apart(photos)
    loaders = (DataLoader(Photos(train), batch_size=32), DataLoader(Photos(valid), batch_size=32, drop_last=True))
    broken = found(ff.diagnose(loaders, only=["contract"]), "contract-broken")
    assert broken.evidence["dropped"] == 6 and "6 of 70 rows are never scored" in broken.cause


def test_scores_of_other_splits_are_not_compared(runs, tmp_path):
    """Two runs on different folds are refused, and so is a run in the place of another one."""
    other = ff.train(ff.read_data(runs / "data.toml"), overrides=["split.folds=2"], out=tmp_path / "other")
    with pytest.raises(RunError, match="split"):
        ff.compare([runs / "joint", other])
    with pytest.raises(RunError, match="finished run"):
        ff.train(ff.read_data(runs / "data.toml"), overrides=["split.folds=3"], out=tmp_path / "other")


def test_bands_swallow_nobody(people, tmp_path):
    """Bands are data: 57 is in the band that says so, and bands that do not rise are refused."""
    data = ff.read_data(people / "data.toml")
    ages = [int(Path(path).parent.name.split("_")[-1]) for path in data.samples.paths]
    wanted = ["<30" if age < 30 else "30-59" if age < 60 else ">=60" for age in ages]
    assert data.samples.frame["age"].to_list() == wanted
    text = (people / "data.toml").read_text()
    (tmp_path / "data.toml").write_text(text.replace("30-59 = 60", "30-59 = 20"))
    with pytest.raises(DataError, match=r"30-59"):
        ff.read_data(tmp_path / "data.toml")


def test_answers_are_joined_by_id(job, portraits):
    """The submission has the template's rows in the template's order, each with its own image's class."""
    template = pl.read_csv(portraits / "eval" / "info.csv")
    written = pl.read_csv(job.submission)
    assert written["ImageID"].to_list() == template["ImageID"].to_list()
    answers = ff.open_run(job.run).predict().predictions
    code_of = dict(zip(answers.ids, answers.codes_N.tolist(), strict=True))
    assert written["ans"].to_list() == [code_of[name] for name in template["ImageID"]]


def test_a_run_goes_on_with_what_it_began_with(runs, tmp_path):
    """An interrupted run is not gone on with by a recipe that trains other layers."""

    def stop(_event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ff.train(ff.read_data(runs / "data.toml"), overrides=["split.folds=3"], out=tmp_path / "run", on_event=stop)
    with pytest.raises(RunError, match="another recipe"):
        ff.train(
            ff.read_data(runs / "data.toml"),
            overrides=["split.folds=3", "model.heads=per_attribute"],
            out=tmp_path / "run",
        )
