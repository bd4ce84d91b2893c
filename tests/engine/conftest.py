"""Tests of the engine begin with nothing noted."""

from __future__ import annotations

import pytest
from made_checks import JUDGED, LEARNED, RAN, READ


@pytest.fixture(autouse=True)
def _nothing_ran_yet():
    for noted in (RAN, LEARNED, JUDGED, READ):
        noted.clear()
