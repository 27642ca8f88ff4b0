"""finefold audit."""

import json
import re
import shutil
from pathlib import Path

import cv2
import polars as pl
import pytest

import finefold as ff
from finefold.cli import show_audit
from finefold.cli.main import main
from finefold.data.synthetic import draw_portraits
from finefold.errors import UsageError
from finefold.steps.audit import KINDS, audit
from finefold.steps.init import init
from finefold.steps.reading import read_data


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Drawn people with planted faults: a broken file, a repeated person, swapped photos, a blank photo, and an
    image to predict that is also labelled."""
    folder = tmp_path_factory.mktemp("audit")
    draw_portraits(folder / "p", num_people=36, num_test=7, size_px=(96, 128))
    images = folder / "p" / "train" / "images"
    people = sorted(path for path in images.iterdir())
    next(people[3].glob("mask1.*")).write_bytes(b"")
    again = images / people[5].name.replace(people[5].name.split("_")[0], "009999")
    again.mkdir()
    for photo in people[5].iterdir():  # the same person, darker and saved anew
        image = cv2.imread(str(photo))
        cv2.imwrite(str(again / f"{photo.stem}.jpg"), (image * 0.8).astype("uint8"), [cv2.IMWRITE_JPEG_QUALITY, 90])
    normal, wrong = (next(people[8].glob(f"{shot}.*")) for shot in ("normal", "incorrect_mask"))
    normal_bytes, wrong_bytes = normal.read_bytes(), wrong.read_bytes()
    normal.write_bytes(wrong_bytes)
    wrong.write_bytes(normal_bytes)
    blank = next(people[10].glob("mask2.*"))
    cv2.imwrite(str(blank), cv2.imread(str(blank)) * 0 + 77)
    shutil.copy(next(people[12].glob("normal.*")), folder / "p" / "eval" / "images" / "zz.jpg")
    init(folder / "p", out=folder / "data.toml")
    return folder


@pytest.fixture(scope="module")
def found(home):
    """One audit of everything, with page and drafts."""
    return audit(read_data(home / "data.toml"), out=home / "out" / "page.html", fix=True)


def person(home: Path, number: int) -> str:
    return sorted(path.name for path in (home / "p" / "train" / "images").iterdir() if "009999" not in path.name)[
        number
    ]


def test_planted_faults_are_found(home, found):
    """The broken file, the repeated person, the swapped photos, the blank one and the leaked test image."""
    assert [one.ids[0].split("/")[0] for one in found.of("unreadable")] == [person(home, 3)]
    (twice,) = found.of("near-duplicate")
    assert set(twice.evidence["groups"]) == {person(home, 5), next((home / "p/train/images").glob("009999*")).name}
    swaps = [one for one in found.of("label-suspect") if "swapped" in one.evidence]
    assert [one.ids[0].split("/")[0] for one in swaps] == [person(home, 8)]
    assert {one.evidence["issue"] for one in found.of("image-quality")} >= {"blank"}
    (leak,) = found.of("test-in-train")
    assert leak.severity == "error" and leak.ids[0] == "images/zz.jpg" and person(home, 12) in leak.ids[1]
    assert [one.severity for one in found.findings] == sorted(
        (one.severity for one in found.findings), key=["error", "warning", "info"].index
    )
    assert {check.kind for check in found.checks} == set(KINDS)


def test_the_page_holds_the_images_and_needs_nothing(found):
    """One file with thumbnails inside, no address to fetch, text escaped, far below a few MB."""
    page = found.written[0].read_text()
    assert page.startswith("<!doctype html>") and page.count("data:image/jpeg;base64,") > 10
    assert "http" not in page.replace("http-equiv", "") and len(page) < 2_000_000
    assert "prefers-color-scheme:dark" in page and "Labels under suspicion" in page


def test_what_to_write_into_data_toml_is_shown(home, found, capsys):
    """The lines that name both drafts, as data.toml takes them: from its folder on."""
    show_audit.audited(found, as_json=False)
    said = capsys.readouterr().out
    assert f"name them in {home / 'data.toml'}:" in said
    assert '  [samples]\n  patches = "out/data.patches.csv"\n  exclude = "out/data.exclude.csv"\n' in said


def test_how_good_a_judge_the_probe_is_is_told(found):
    """Beside what is estimated wrong stands, for each attribute, how often the probe agrees with the labels."""
    (says,) = [one.says for one in found.checks if one.kind == "label-suspect"]
    said = re.findall(r"(mask|gender|age) (\d+) %", says)
    assert [name for name, _ in said] == ["mask", "gender", "age"]
    assert all(30 < int(percent) <= 100 for _, percent in said)


def test_drafts_apply_to_data_toml(home, found):
    """Both drafts are taken by data.toml as they are: what is excluded is gone, what is patched has changed."""
    patches, exclude = found.written[1:]
    assert (patches.name, exclude.name) == ("data.patches.csv", "data.exclude.csv")
    text = (home / "data.toml").read_text()
    used = text.replace("[samples]\n", '[samples]\npatches = "out/data.patches.csv"\n')
    (home / "patched.toml").write_text(used)
    before, after = read_data(home / "data.toml").samples, read_data(home / "patched.toml").samples
    assert len(after) == len(before) and (after.labels_N != before.labels_N).any()
    (home / "less.toml").write_text(text.replace("[samples]\n", '[samples]\nexclude = "out/data.exclude.csv"\n'))
    left = set(read_data(home / "less.toml").samples.ids)
    assert pl.read_csv(exclude).columns == ["id", "reason"]
    assert not any(name.startswith(("009999", f"{person(home, 3)}/mask1")) for name in left)
    again = audit(read_data(home / "data.toml"), only=["unreadable"], out=home / "out" / "page.html", fix=True)
    assert "data.exclude.2.csv" in {file.name for file in again.written}  # a draft under review is not written over


def test_kinds_can_be_asked_for_alone(home, capsys):
    """--only looks for what is named and nothing else; the JSON is a list of findings; exit 0 with findings."""
    assert main(["audit", str(home / "data.toml"), "--only", "unreadable,exact-duplicate", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["kind"] for one in told} == {"unreadable"}
    assert set(told[0]) == {"kind", "severity", "ids", "evidence", "cause", "remedy"}


def test_a_person_reads_a_table_then_the_worst_then_what_to_do(home, capsys):
    """The table has a line per kind; then come causes and the next step."""
    assert main(["audit", str(home / "data.toml"), "--only", "near-duplicate,test-in-train,split-leak"]) == 0
    said = capsys.readouterr().out
    assert "near-duplicate" in said and "1 warning" in said and "not done" in said
    assert "share a photo" in said and "next: finefold audit" in said


def test_an_unknown_kind_is_a_usage_mistake(home, capsys):
    """A misspelt kind is refused with those there are, exit 2."""
    assert main(["audit", str(home / "data.toml"), "--only", "near-duplicates"]) == 2
    assert "kinds are unreadable" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no kind of finding"):
        ff.audit(read_data(home / "data.toml"), only=["labels"])


def test_a_runs_ledger_is_asked(runs, capsys):
    """With --run no probe is fitted: the ledger's probabilities say who is suspect."""
    arguments = ["audit", str(runs / "data.toml"), "--run", str(runs / "joint"), "--only", "label-suspect"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "the run's ledger" in said.out and "heads" not in said.err


def test_clean_portraits_have_no_error(runs):
    """Drawn people as they are: nothing of severity `error`, no copies, no contradictions."""
    found = audit(read_data(runs / "data.toml"))
    assert all(one.severity != "error" for one in found.findings)
    assert not found.of("near-duplicate") and not found.of("group-contradiction") and not found.of("unreadable")
