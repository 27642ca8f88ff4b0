"""The audit on real faces: broken files and people who appear twice."""

from pathlib import Path

import pytest

from finefold.steps.audit import audit
from finefold.steps.init import init
from finefold.steps.reading import read_data

FACES = Path(__file__).resolve().parents[3] / "shared" / "data" / "maskfaces"


@pytest.mark.slow
@pytest.mark.skipif(not FACES.is_dir(), reason="the practice set ../shared/data/maskfaces is not here")
def test_broken_files_repeated_people_and_swapped_photos(tmp_path):
    """Four files do not decode, three people have two folders each, and three have photos that changed places."""
    init(FACES, out=tmp_path / "data.toml")
    found = audit(read_data(tmp_path / "data.toml"))
    assert len(found.of("unreadable")) == 4
    assert {tuple(name[:6] for name in one.evidence["groups"]) for one in found.of("near-duplicate")} == {
        ("000104", "000105"), ("000298", "000299"), ("000582", "000583"),
    }  # fmt: skip
    first = [one for one in found.of("label-suspect") if one.evidence["rank"] <= 25]
    assert {one.ids[0][:6] for one in first if "swapped" in one.evidence} == {"000032", "000233", "000556"}
    assert {"000062", "000166", "000381", "000587"} <= {one.ids[0][:6] for one in first}
    assert all(one.severity != "error" for one in found.findings)
