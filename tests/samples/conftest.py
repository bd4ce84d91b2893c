"""Images on disk, and what every refusal must look like."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from auditkit.errors import AuditError, ExecutionError

Refusal = Callable[..., contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _refused(*parts: str, kind: type[AuditError] = ExecutionError) -> Iterator[None]:
    with pytest.raises(AuditError) as caught:
        yield
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert len(message.splitlines()) == 1, message
    for part in parts:
        assert part in message, message


@pytest.fixture
def refused() -> Refusal:
    """Expect an error of one line that holds all the given parts."""
    return _refused


def _picture(seed: int, height: int = 6, width: int = 5, channels: int = 3) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values[:, :, 0] if channels == 1 else values)


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    return _picture


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """Three classes with 4 + 3 + 2 pictures of 6x5."""
    root = tmp_path / "data"
    for label, (name, count) in enumerate([("ant", 4), ("bee", 3), ("cat", 2)]):
        (root / name).mkdir(parents=True)
        for number in range(count):
            _picture(10 * label + number).save(root / name / f"{number}.png")
    return root
