"""Drawn people with their images in memory."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from finefold.auditing.looks import Looks, look_at
from finefold.data.synthetic import portrait_batch


@pytest.fixture(scope="session")
def faces() -> list[np.ndarray]:
    """Photos of 60 drawn people, RGB."""
    return portrait_batch(60, size_px=(96, 128))


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., Looks]:
    """Writes named contents to files and looks at them."""

    def write_and_look(contents: dict[str, bytes | np.ndarray], cache: Path | None = None) -> Looks:
        paths = []
        for name, content in contents.items():
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not isinstance(content, bytes):
                content = cv2.imencode(path.suffix, content[:, :, ::-1])[1].tobytes()
            path.write_bytes(content)
            paths.append(path)
        return look_at(list(contents), paths, cache=cache or tmp_path / "cache", max_pixels=10**6)

    return write_and_look
