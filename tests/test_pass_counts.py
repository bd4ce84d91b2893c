"""Performance as counts: no check makes more passes than it did, whatever the machine; `helpers/pass_counts.py` counts.

The expected counts are in pass_counts.json. After a change that is meant:

    .venv/bin/python tests/helpers/pass_counts.py
"""

from __future__ import annotations

import functools
from fnmatch import fnmatchcase

import pytest
import torch
from pass_counts import GROUPS, RENEW, Passes, builtin, counted, stored, subject

from auditkit.demo.network import sign_net
from auditkit.registry import CHECKS

# Searches end when an image falls; on another machine rounding may let a few fall a step sooner or later. The number of
# passes of all other checks is fixed by their options.
SEARCHES = ("noise.*", "pixel.*", "patch.*", "physical.*", "detect.*", "prevent.*", "sanity.*", "explain.attacked")
ROUNDING = 0.02

EXPECTED = stored()
subject = functools.cache(subject)


def complaints(check_id: str, found: dict[str, int], expected: dict[str, int]) -> list[str]:
    """Return a sentence for each count that is not as expected."""
    tolerance = ROUNDING if any(fnmatchcase(check_id, pattern) for pattern in SEARCHES) else 0
    lines = []
    for name in sorted(found.keys() | expected.keys()):
        now, before = found.get(name), expected.get(name)
        what = name.replace("_", " ")
        if now is None or before is None:
            lines.append(f"{check_id} has {now} {what}, {before} before")
        elif abs(now - before) > tolerance * before:
            lines.append(f"{check_id} now takes {now} {what}, {before} before")
    return lines


@pytest.mark.parametrize(("group", "check_id"), [(group, check_id) for group in GROUPS for check_id in builtin(group)])
def test_a_check_makes_as_many_passes_as_before(group: str, check_id: str) -> None:
    expected = EXPECTED[group].get(check_id)
    assert expected is not None, f"{check_id} has no stored counts yet: run {RENEW}, and read what it wrote"
    wrong = complaints(check_id, counted(group, check_id, subject(group)), expected)
    assert not wrong, f"{'; '.join(wrong)}: if that is meant, run {RENEW}"


@pytest.mark.parametrize("group", GROUPS)
def test_no_count_is_kept_of_a_check_that_is_gone(group: str) -> None:
    assert sorted(EXPECTED[group]) == sorted(builtin(group)), f"run {RENEW}"


def test_one_pass_more_is_noticed_and_so_is_one_less() -> None:
    counts = {"forward_calls": 3, "forward_rows": 34}
    assert complaints("explain.some", counts, dict(counts)) == []
    for check_id in ("explain.some", "noise.some"):
        for calls in (2, 4):
            (line,) = complaints(check_id, counts | {"forward_calls": calls}, counts)
            assert line == f"{check_id} now takes {calls} forward calls, 3 before"
    assert complaints("noise.some", {"forward_rows": 1001}, {"forward_rows": 1000}) == []
    assert complaints("explain.some", {"forward_rows": 1001}, {"forward_rows": 1000}) != []
    assert complaints("explain.some", {}, counts) != []


def test_passes_are_counted_forward_and_backward_in_every_copy_of_the_network() -> None:
    network, images = sign_net(), torch.rand(5, 3, 32, 32, requires_grad=True)
    traced = torch.fx.symbolic_trace(network)
    with Passes(tuple(network.features[0].weight.shape)) as passes:
        network(images)
        traced(images[:2]).sum().backward()
        # A convolution that is not the network's first layer.
        torch.nn.functional.conv2d(images, torch.zeros(1, 3, 3, 3))
    assert (passes.forward_calls, passes.forward_rows) == (2, 7)
    assert (passes.backward_calls, passes.backward_rows) == (1, 2)


def test_the_subjects_are_worth_counting_on() -> None:
    # An attack that every image withstands, or none, would hide an early end that is gone.
    of = subject(CHECKS)
    columns = of.finished["noise.pgd"].columns
    fooled = columns["clean_correct"] & ~columns["robust"]
    assert 0 < fooled.sum() < columns["clean_correct"].sum()
