"""Every reader of what strangers send, on a few hundred inputs each; `make fuzz` runs ten thousand."""

from __future__ import annotations

import pytest
from children import MODULES, targets_of
from harness import Target, fuzz
from hypothesis import given
from hypothesis import strategies as st

from auditkit.config import Settings, settings_from
from auditkit.errors import UsageError
from auditkit.requirements import parse_requirement

TARGETS = [target for module in MODULES for target in targets_of(module)]
INPUTS = 200
# An input of these renders pages, sets up every check, or goes through a whole command.
SLOW = {
    "config": 60,
    "options": 40,
    "stored.report": 20,
    "stored.formats": 60,
    "stored.baseline": 60,
    "stored.compare": 60,
    "torch_export": 60,
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
SETTINGS = st.dictionaries(st.sampled_from([*Settings.model_fields, "other"]), ANYTHING, max_size=5)
PIECES = st.sampled_from(["noise.pgd", "/", "a", "@", "8/255", " drop ", " rise ", ">=", "<", " ", "0.4", "40%", "-1"])


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_input_raises_runs_code_or_leaves_its_folder(target: Target):
    found = fuzz(target, SLOW.get(target.name, INPUTS), seed=1)
    assert not found, f"{found[0].repeat}\n{found[0].detail}"


def _refused_in_one_line(read, given):
    """Return what was read, or None where it was refused."""
    try:
        return read(given)
    except UsageError as error:
        message = str(error)
    assert len(message.splitlines()) == 1, message
    assert len(message) < 3000, message
    return None


@given(st.text() | st.lists(PIECES, max_size=8).map("".join))
def test_a_gate_that_can_be_read_is_printed_as_what_it_is(text):
    gate = _refused_in_one_line(parse_requirement, text)
    assert gate is None or parse_requirement(str(gate)) == gate


@given(ANYTHING | st.dictionaries(st.sampled_from(["require", "level", "waiver", "x"]), ANYTHING))
def test_whatever_is_given_as_a_gate_is_read_or_refused_in_one_line(anything):
    _refused_in_one_line(parse_requirement, anything)


@given(SETTINGS)
def test_whatever_is_given_as_settings_is_taken_or_refused_in_one_line(values):
    _refused_in_one_line(settings_from, values)
