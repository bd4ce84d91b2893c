from __future__ import annotations

import hashlib
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auditkit.samples import Dataset, NamedDataset, Samples, Shuffled, fingerprint, gather_samples, open_dataset


def some(count: int = 4, masks: bool = False) -> Samples:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(count, 3, 5, 4, generator=generator)
    held = torch.rand(count, 5, 4, generator=generator) > 0.5 if masks else None
    return Samples(images, torch.arange(count), tuple(f"s{row}" for row in range(count)), held)


WRONG = {
    "dtype": ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.float64)}, "float32"),
    "rank": ({"images": torch.zeros(2, 3, 4)}, "(2, 3, 4)"),
    "channels": ({"images": torch.zeros(2, 4, 4, 4)}, "C = 1 or 3"),
    "no pixels": ({"images": torch.zeros(2, 3, 0, 4)}, "no pixels"),
    "too high": ({"images": torch.full((2, 3, 4, 4), 1.5)}, "1.5"),
    "too low": ({"images": torch.full((2, 3, 4, 4), -0.1)}, "-0.1"),
    "nan": ({"images": torch.full((2, 3, 4, 4), torch.nan)}, "nan"),
    "infinite": ({"images": torch.full((2, 3, 4, 4), torch.inf)}, "inf"),
    "label dtype": ({"labels": torch.zeros(2)}, "int64"),
    "label length": ({"labels": torch.zeros(3, dtype=torch.int64)}, "(3,)"),
    "label rank": ({"labels": torch.zeros(2, 1, dtype=torch.int64)}, "(2, 1)"),
    "negative label": ({"labels": torch.tensor([0, -1])}, "-1"),
    "few ids": ({"ids": ("a",)}, "1 ids for 2"),
    "same ids": ({"ids": ("a", "a")}, "'a' occurs twice"),
    "mask dtype": ({"masks": torch.zeros(2, 4, 4)}, "bool"),
    "mask shape": ({"masks": torch.zeros(2, 4, 5, dtype=torch.bool)}, "(2, 4, 5)"),
}


@pytest.mark.parametrize(("change", "told"), WRONG.values(), ids=WRONG.keys())
def test_wrong_samples_are_refused(refused, change, told):
    right = {"images": torch.zeros(2, 3, 4, 4), "labels": torch.tensor([0, 1]), "ids": ("a", "b")}
    Samples(**right)
    with refused(told):
        Samples(**(right | change))


def test_the_bounds_of_the_range_are_in_it():
    images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    assert len(Samples(images, torch.tensor([0, 0]), ("a", "b"))) == 2


def test_no_samples_are_samples():
    assert Samples(torch.zeros(0, 3, 0, 0), torch.zeros(0, dtype=torch.int64), ()).digests() == ()


def test_samples_are_frozen():
    with pytest.raises(AttributeError):
        some().ids = ()  # type: ignore[misc]


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("index", [[2, 0], torch.tensor([2, 0]), [-2, 0], torch.tensor([True, False, True, False]), []])
def test_take_keeps_rows_together(index, masks):
    whole = some(masks=masks)
    part = whole.take(index)
    digest_of = dict(zip(whole.ids, whole.digests(), strict=True))
    assert part.digests() == tuple(digest_of[name] for name in part.ids)
    assert len(part) == (2 if len(index) else 0)
    if masks and len(part):
        assert torch.equal(part.masks[0], whole.masks[int(part.labels[0])])


def test_taking_all_as_they_are_copies_nothing():
    """Checks sort what they learn from by name, and mostly get it sorted: a copy would double it."""
    whole = some()
    assert whole.take(range(len(whole))) is whole
    turned = whole.take(range(len(whole) - 1, -1, -1))
    assert turned is not whole
    assert turned.ids == whole.ids[::-1]


@pytest.mark.parametrize("index", [[4], [-5], [0, 0], [1, -3], torch.tensor([True])])
def test_take_refuses_positions_that_are_not_there_or_twice(refused, index):
    with refused():
        some().take(index)


def test_to_moves_all_tensors():
    moved = some(masks=True).to(torch.device("cpu"))
    assert moved.images.device == moved.labels.device == moved.masks.device == torch.device("cpu")
    assert moved.digests() == some(masks=True).digests()


def test_a_digest_sees_every_part():
    base = some(1, masks=True)
    pixel = base.images.clone()
    pixel[0, 1, 2, 3] = 1.0 - pixel[0, 1, 2, 3]
    others = [
        Samples(pixel, base.labels, base.ids, base.masks),
        Samples(base.images, base.labels + 1, base.ids, base.masks),
        Samples(base.images, base.labels, ("other",), base.masks),
        Samples(base.images, base.labels, base.ids, ~base.masks),
        Samples(base.images, base.labels, base.ids),
        Samples(base.images.reshape(1, 3, 4, 5), base.labels, base.ids, base.masks.reshape(1, 4, 5)),
    ]
    assert len({sample.digests()[0] for sample in [base, *others]}) == len(others) + 1


def test_a_digest_does_not_depend_on_memory_layout():
    base = some()
    other = Samples(base.images.to(memory_format=torch.channels_last), base.labels, base.ids)
    assert other.digests() == base.digests()


def test_digests_and_fingerprints_are_the_same_in_every_version():
    samples = Samples(torch.full((1, 1, 1, 2), 0.5), torch.tensor([7]), ("é",))
    spelled = "2:é|7|1x1x2|plain|".encode() + struct.pack("<2f", 0.5, 0.5)
    assert samples.digests() == (hashlib.sha256(spelled).hexdigest(),)
    assert fingerprint(["a", "b"]) == hashlib.sha256(b"a\nb\n").hexdigest()


@given(st.lists(st.text("0123456789abcdef", min_size=1), max_size=6))
def test_a_fingerprint_depends_on_order_and_bounds(digests):
    assert fingerprint(iter(digests)) == fingerprint(digests)
    if digests != digests[::-1]:
        assert fingerprint(digests) != fingerprint(digests[::-1])
    assert fingerprint([*digests, "0"]) != fingerprint(digests)


def test_what_is_opened_is_a_dataset():
    opened = open_dataset((torch.zeros(2, 3, 4, 4), [0, 1]))
    assert isinstance(opened, Dataset)
    assert not isinstance([], Dataset)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(0, 3), st.booleans())
def test_parts_that_come_one_by_one_become_what_they_were_cut_from(lengths, spare, masks):
    whole = some(sum(lengths), masks)
    stops = [sum(lengths[: at + 1]) for at in range(len(lengths))]
    cut = (whole.take(range(stop - length, stop)) for stop, length in zip(stops, lengths, strict=True))
    joined = gather_samples(cut, len(whole) + spare)
    assert joined.digests() == whole.digests()
    assert joined.images.shape == whole.images.shape


def test_parts_of_which_one_has_no_masks_have_none_together():
    parts = [some(3, masks=True), some(3)]
    parts[1] = Samples(parts[1].images, parts[1].labels, ("a", "b", "c"))
    assert gather_samples(parts, 6).masks is None
    assert gather_samples(parts[::-1], 6).masks is None


def test_images_of_two_sizes_are_not_gathered(refused):
    grey = Samples(torch.zeros(1, 1, 5, 4), torch.tensor([0]), ("grey",))
    with refused("(1, 5, 4) beside (3, 5, 4)"):
        gather_samples([some(2), grey], 3)


def test_names_are_known_without_decoding_and_are_those_of_the_images():
    samples = some(7)
    data = open_dataset((samples.images.numpy(), samples.labels.numpy()))
    assert isinstance(data, NamedDataset)
    assert data.ids_between(2, 5) == data.read(2, 5).samples.ids

    class Nameless:
        class_names, source = None, "s"

        def __len__(self):
            return len(data)

        def read(self, start, stop):
            return data.read(start, stop)

    assert not isinstance(Nameless(), NamedDataset)
    for shuffled in (Shuffled(data, 1), Shuffled(Nameless(), 1)):
        assert shuffled.ids_between(1, 6) == shuffled.read(1, 6).samples.ids
