"""The guides say what happens: every example in them is run, and its output compared."""

import doctest
from pathlib import Path

import pytest

GUIDES = sorted((Path(__file__).resolve().parents[2] / "docs" / "guides").glob("*.md"))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guides_examples_give_what_it_says(guide):
    """Every `>>>` line of a guide runs, in order, and prints what stands under it."""
    outcome = doctest.testfile(str(guide), module_relative=False, optionflags=doctest.REPORT_ONLY_FIRST_FAILURE)
    assert outcome.attempted > 0
    assert outcome.failed == 0
