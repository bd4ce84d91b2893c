"""Random streams: the same numbers for a sample wherever it is computed, and numbers that are random."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from auditkit.streams import Streams

IDS = [f"image-{number}" for number in range(40)]
KINDS = ("uniform", "normal")


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(order=st.permutations(range(12)), size=st.integers(1, 12), seed=st.integers(-(2**70), 2**70))
def test_a_samples_numbers_depend_neither_on_batch_nor_on_order(kind, order, size, seed):
    ids = IDS[:12]
    whole = getattr(Streams.of(seed, "noise.pgd", ids), kind)(3, (2, 3))
    for at in range(0, 12, size):
        rows = order[at : at + size]
        part = getattr(Streams.of(seed, "noise.pgd", [ids[row] for row in rows]), kind)(3, (2, 3))
        assert torch.equal(part, whole[rows])


def test_a_row_may_be_at_a_step_of_its_own():
    streams = Streams.of(0, "a", IDS[:3])
    mixed = streams.uniform(torch.tensor([5, 0, 2]), (4,))
    for row, step in enumerate((5, 0, 2)):
        assert torch.equal(mixed[row], streams.uniform(step, (4,))[row])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 30, 31, 10**9])
def test_numbers_are_the_same_however_many_are_made_at_once(kind, block, monkeypatch):
    whole = getattr(Streams.of(0, "a", IDS), kind)(torch.arange(40), (2, 5))
    monkeypatch.setattr("auditkit.streams._BLOCK_ON_CPU", block)
    assert torch.equal(getattr(Streams.of(0, "a", IDS), kind)(torch.arange(40), (2, 5)), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_no_streams_and_no_numbers_make_none(kind):
    assert getattr(Streams.of(0, "a", []), kind)(0, (2, 5)).shape == (0, 2, 5)
    assert getattr(Streams.of(0, "a", IDS), kind)(0, (0, 5)).shape == (40, 0, 5)


def test_more_numbers_begin_with_the_same_numbers():
    streams = Streams.of(0, "a", IDS)
    assert torch.equal(streams.uniform(0, (50,))[:, :7], streams.uniform(0, (7,)))


def _mixed(bits):
    bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) % 2**64
    bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) % 2**64
    return bits ^ bits >> 31


def test_the_numbers_are_those_of_splitmix64_in_plain_python():
    """Stored results name a seed: with another generator they could not be repeated."""
    golden = 0x9E3779B97F4A7C15
    digest = hashlib.sha256(b"7\0noise.pgd\0b").digest()
    first, second = (int.from_bytes(digest[at : at + 8], "little") for at in (0, 8))
    row = _mixed((first + (2 + 1) * golden) % 2**64) ^ second
    wanted = [((_mixed((row + place * golden) % 2**64) >> 40) + 0.5) / 2**24 for place in (1, 2, 3)]
    got = Streams.of(7, "noise.pgd", ["a", "b"]).uniform(2, (3,))
    assert got[1].tolist() == torch.tensor(wanted, dtype=torch.float32).tolist()


def test_uniform_numbers_lie_strictly_between_0_and_1_and_fill_it_evenly():
    numbers = Streams.of(0, "a", IDS).uniform(0, (5000,)).flatten()
    assert numbers.dtype == torch.float32
    assert 0 < float(numbers.min()) < 1e-4
    assert 1 - 1e-4 < float(numbers.max()) < 1
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-3


def test_the_ends_of_the_range_are_never_reached(monkeypatch):
    from auditkit import streams

    for bits in (0, -1):
        monkeypatch.setattr(streams, "_mix", lambda numbers, bits=bits: torch.full_like(numbers, bits))
        drawn = Streams(torch.zeros(1, 2, dtype=torch.int64))
        assert 0 < float(drawn.uniform(0, (1,))) < 1
        assert bool(drawn.normal(0, (1,)).isfinite().all())


def test_normal_numbers_are_standard_normal():
    numbers = Streams.of(0, "a", IDS).normal(0, (5000,)).flatten()
    assert numbers.dtype == torch.float32
    assert bool(numbers.isfinite().all())
    assert stats.kstest(numbers.numpy(), "norm").pvalue > 1e-3
    assert abs(float(numbers.double().pow(4).mean()) - 3) < 0.1


def _independent(first, second):
    assert not (first == second).any()
    correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).double())[0, 1]
    assert abs(float(correlation)) < 4 / first.numel() ** 0.5


def test_samples_steps_purposes_and_seeds_have_independent_numbers():
    streams = Streams.of(0, "a", IDS)
    numbers = streams.uniform(0, (500,))
    _independent(numbers[:-1], numbers[1:])
    _independent(numbers[:, :-1], numbers[:, 1:])
    _independent(numbers, streams.uniform(1, (500,)))
    _independent(numbers, Streams.of(0, "b", IDS).uniform(0, (500,)))
    _independent(numbers, Streams.of(1, "a", IDS).uniform(0, (500,)))


def test_drawing_touches_no_global_generator():
    before = torch.get_rng_state()
    Streams.of(0, "a", IDS).normal(0, (3,))
    assert torch.equal(before, torch.get_rng_state())


def test_no_samples_have_no_numbers():
    assert Streams.of(0, "a", []).uniform(0, (2, 2)).shape == (0, 2, 2)
