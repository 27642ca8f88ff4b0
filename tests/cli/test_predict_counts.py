"""finefold predict --counts: counts known by design."""

import json

import polars as pl
import pytest

from finefold.cli.main import main
from finefold.steps.run import open_run


@pytest.fixture
def counts(job, tmp_path):
    """A file of counts of the 21 test images' first attribute, which are not what the run would answer."""
    attribute = open_run(job.run).space.attributes[0]
    values = [21 - 2 * (len(attribute.classes) - 1), *[2] * (len(attribute.classes) - 1)]
    file = tmp_path / "counts.toml"
    lines = "\n".join(f'"{name}" = {value}' for name, value in zip(attribute.classes, values, strict=True))
    file.write_text(f"[{attribute.name}]\n{lines}\n")
    return file, attribute.name, dict(zip(attribute.classes, values, strict=True))


def test_answers_have_the_counts(job, counts, tmp_path, capsys):
    """The answers' histogram is exactly the counts; terminal and JSON say transductive, and what the ledger gains."""
    file, name, wanted = counts
    out = tmp_path / "a.csv"
    assert main(["predict", str(job.run), "--counts", str(file), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"answers have the counts of {file}" in said
    assert "transductive: an answer depends on which images are asked together" in said
    about = json.loads((tmp_path / "a.json").read_text())
    (one,) = about["corrections"]
    assert (one["kind"], one["is_transductive"], one["counts"]) == ("counts", True, {name: list(wanted.values())})
    assert one["ledger"]["after"] == pytest.approx(about["expected"]["macro_f1"]["value"])
    assert about["expected"]["log_loss"] is None
    place = open_run(job.run).space.names.index(name)
    found: dict[str, int] = dict.fromkeys(wanted, 0)
    for label, share in about["shares"].items():
        found[label.split("/")[place]] += share["answers"]
    assert found == wanted


def test_counts_hold_in_each_group(job, counts, tmp_path, capsys):
    """With --counts-in every group of three has its own counts; a group of another size is told."""
    _, name, wanted = counts
    classes = list(wanted)
    file = tmp_path / "each.toml"
    lines = [f'"{one}" = {3 if number == 0 else 0}' for number, one in enumerate(classes)]
    file.write_text(f"[{name}]\n" + "\n".join(lines))
    folder = open_run(job.run).spec.predict.root
    names = sorted(pl.read_csv(job.submission).to_series().to_list())
    pl.DataFrame({"id": names, "group": [f"g{row // 3}" for row in range(21)]}).write_csv(tmp_path / "groups.csv")
    command = ["predict", str(job.run), "--counts", str(file), "--counts-in", str(tmp_path / "groups.csv")]
    assert folder
    assert main([*command, "--out", str(tmp_path / "a.csv")]) == 0
    assert "in each of 7 groups" in capsys.readouterr().out
    pl.DataFrame({"id": names, "group": ["g"] * 20 + ["other"]}).write_csv(tmp_path / "groups.csv")
    assert main([*command, "--out", str(tmp_path / "b.csv")]) == 1
    assert "2 of 2 groups are not of 3 images" in capsys.readouterr().err


def test_what_is_no_count_is_told(job, counts, tmp_path, capsys):
    """Misspelt classes, shares, another number of images and what counts exclude are told before any work."""
    file, name, wanted = counts
    first = next(iter(wanted))
    run, out = str(job.run), ["--out", str(tmp_path / "a.csv")]
    text = file.read_text()
    for changed, words in [
        (text.replace(f'"{first}"', '"nobody"'), f"`{name}.nobody` is no class"),
        (text.replace(" = 2", " = 0.5"), "counts are whole numbers, 0 or more"),
        (text.replace(" = 2", " = 3"), "and there are 21"),
        ("", "it holds no table"),
    ]:
        file.write_text(changed)
        assert main(["predict", run, "--counts", str(file), *out]) == 1
        assert words in capsys.readouterr().err
    file.write_text(text)
    assert main(["predict", run, "--counts", str(file), "--adapt-prior", "auto", *out]) == 2
    assert "--counts says the class shares already" in capsys.readouterr().err
    assert main(["predict", run, "--counts-in", "who", *out]) == 2
    assert "missing --counts FILE" in capsys.readouterr().err
    assert main(["predict", run, "--counts", str(file), "--pool", "age", "--groups", "who", *out]) == 2
    assert "say one of them" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()
