"""Facts to SVG pictures."""

import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from finefold.report.pictures import MAX_ROWS, draw_class_bars, draw_confusion, draw_shares

JOINT = [f"{m}/{g}/{a}" for m in ("wear", "incorrect", "normal") for g in ("male", "female") for a in ("<30", ">=60")]
ODD = ["a & b", "<script>", "$x_1$", 'quote"s', "한국어 이름", "tab\there"]


def texts_of(svg):
    """Every text of a picture; parsing proves that it is well-formed XML."""
    return [
        "".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter() if "text" in element.tag
    ]


def class_scores(names, absent=()):
    """Per-class scores as in a summary."""
    return {
        name: {"f1": None, "support": 0}
        if name in absent
        else {
            "f1": {"value": 0.5 + 0.4 * k / len(names), "low": 0.4, "high": 0.95, "n": 3 * k},
            "support": 1000 + k,
        }
        for k, name in enumerate(names)
    }


def pictures_of(names):
    """One picture of each kind."""
    confusion = np.random.default_rng(0).integers(0, 50, (len(names), len(names)))
    shares = list(np.full(len(names), 1 / len(names)))
    return {
        "confusion": draw_confusion(confusion, names, title="Confusion"),
        "bars": draw_class_bars(class_scores(names), title="F1 per class"),
        "shares": draw_shares(names, {"training": shares, "predicted": shares[::-1]}, title="Shares"),
    }


@pytest.mark.parametrize("names", [["no", "yes"], [f"class {k}" for k in range(8)], JOINT, ODD])
def test_every_class_is_named(names):
    """Each picture is well-formed XML and holds every class name as text, odd characters included."""
    for kind, svg in pictures_of(names).items():
        missing = {name.replace("\t", "\ufffd") for name in names} - set(texts_of(svg))
        assert not missing, kind


def test_pictures_are_deterministic():
    """The same facts give the same bytes, whatever settings the caller has in matplotlib."""
    first = pictures_of(JOINT)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert pictures_of(JOINT) == first
        assert matplotlib.rcParams["font.size"] == 30


def test_pictures_hold_no_date_and_no_bitmap():
    """Nothing in a picture changes from day to day, and nothing in it is a blurred image."""
    for svg in pictures_of(JOINT).values():
        assert "dc:date" not in svg and "<image" not in svg and matplotlib.__version__ not in svg


def test_confusion_shows_counts_and_absent_classes():
    """Counts are numbers, big ones shortened; empty cells stay empty; a row without samples says so."""
    texts = texts_of(draw_confusion([[123_456, 0], [0, 0]], ["seen", "unseen"], title="Confusion"))
    assert {"123k", "123,456", "no sample"} <= set(texts)
    assert "0" not in texts


def test_forty_classes_can_be_drawn():
    """A picture of 40 classes with five-figure counts holds all of its counts."""
    names = [f"class {k}" for k in range(40)]
    texts = texts_of(draw_confusion(np.diag(np.arange(10_000, 10_040)), names, title="Many"))
    assert {str(count) for count in range(10_000, 10_040)} <= set(texts)


def test_long_names_are_shortened_in_the_middle():
    """A name beyond 60 characters keeps its beginning and its end."""
    name = "begin" + "x" * 200 + "end"
    (shown,) = [text for text in texts_of(draw_confusion([[1, 0], [0, 1]], [name, "b"], title="Long")) if "…" in text][
        :1
    ]
    assert len(shown) == 60 and shown.startswith("begin") and shown.endswith("end")


def test_absent_classes_are_marked():
    """A class without samples reads `no sample`, and macro F1 is the mean of the others."""
    scores = class_scores(["a", "b", "c"], absent=["b"])
    texts = texts_of(draw_class_bars(scores, title="F1"))
    mean = (scores["a"]["f1"]["value"] + scores["c"]["f1"]["value"]) / 2
    assert "no sample" in texts and f"macro F1 {mean:.2f}" in texts


def test_a_picture_without_any_sample_can_be_drawn():
    """Bars of classes that all lack samples are still a picture, without a macro F1."""
    texts = texts_of(draw_class_bars(class_scores(["a", "b"], absent=["a", "b"]), title="F1"))
    assert texts.count("no sample") == 2 and not any("macro" in text for text in texts)


def test_of_many_classes_the_worst_are_drawn_in_class_order():
    """Beyond 40 classes the lowest F1 are kept, in class order, and the picture says so."""
    names = [f"class {k}" for k in range(50)]
    texts = texts_of(draw_class_bars(class_scores(names), title="F1"))
    assert [text for text in texts if text.startswith("class ")] == names[:MAX_ROWS]
    assert any("the 40 lowest of 50 classes" in text for text in texts)


def test_of_many_shares_those_that_differ_are_drawn():
    """Beyond 40 classes the shares that differ most are kept, and the picture says so."""
    names, gaps = [f"class {k}" for k in range(50)], np.arange(50) / 1000
    texts = texts_of(draw_shares(names, {"a": np.zeros(50), "b": gaps}, title="Shares"))
    assert [text for text in texts if text.startswith("class ")] == names[10:]
    assert any("the 40 of 50 classes that differ most" in text for text in texts)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: draw_confusion([[1, 2]], ["a", "b"], title=""), r"confusion has shape \(1, 2\)"),
        (lambda: draw_class_bars({}, title=""), "no classes to draw"),
        (
            lambda: draw_shares(["a", "b"], {"training": [1.0]}, title=""),
            r"expected 2 shares each.*'training': 1",
        ),
        (lambda: draw_shares(["a"], {}, title=""), "0 sets of shares"),
    ],
)
def test_facts_that_do_not_fit_are_refused(draw, message):
    """Shapes that do not fit are errors, not odd pictures."""
    with pytest.raises(ValueError, match=message):
        draw()


def test_importing_pictures_is_cheap():
    """The module loads without matplotlib, and drawing never loads pyplot."""
    code = (
        "import sys; from finefold.report.pictures import draw_shares;"
        "assert 'matplotlib' not in sys.modules;"
        "draw_shares(['a'], {'s': [1.0]}, title=''); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
