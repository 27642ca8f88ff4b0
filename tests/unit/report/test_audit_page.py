"""The audit's page is whole, escaped, bounded and honest about what it does not show."""

import cv2
import numpy as np

from finefold.data.findings import Finding
from finefold.report.audit_page import MOST_PER_FINDING, MOST_PER_KIND, audit_page


def test_names_are_escaped_and_missing_images_told(tmp_path):
    """A name cannot break the page; an image that cannot be read leaves its place."""
    good = tmp_path / "a.png"
    cv2.imwrite(str(good), np.full((40, 30, 3), 90, np.uint8))
    name = "<script>.png"
    finding = Finding(
        "exact-duplicate", "warning", ("a.png", name), {}, "`a.png` and `<script>.png` are the same", "keep one"
    )
    page = audit_page(
        [finding], {"a.png": good, name: tmp_path / "gone.png"}, {"a.png": "x & y"}, title="T", num_samples=2
    )
    assert "<script>" not in page and "&lt;script&gt;.png" in page and "x &amp; y" in page
    assert page.count("data:image/jpeg;base64,") == 1 and "not shown" in page
    assert "<code>a.png</code>" in page


def test_long_lists_are_cut_and_counted():
    """Of many findings and images the first are shown and the rest counted."""
    ids = tuple(f"{number}.png" for number in range(MOST_PER_FINDING + 5))
    findings = [Finding("image-quality", "info", ids, {"issue": "dark"}, "dark", "look")] * (MOST_PER_KIND + 3)
    page = audit_page(findings, {}, {}, title="T", num_samples=9)
    assert page.count("<article>") == MOST_PER_KIND and "and 3 more: see --json" in page
    assert "and 5 more images" in page


def test_kinds_it_does_not_know_are_shown_too():
    """A finding of another room appears under its own name; no finding is said as such."""
    page = audit_page([Finding("one-class-collapse", "error", (), {}, "why", "what")], {}, {}, title="T", num_samples=1)
    assert "one-class-collapse" in page and "class='error'" in page
    assert "nothing was found" in audit_page([], {}, {}, title="T", num_samples=1)
