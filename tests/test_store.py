"""The store: what was put comes back the same, complete or not at all."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from auditkit import store as store_module
from auditkit.check import Exhibit, Findings, Panel, Tally
from auditkit.errors import ExecutionError
from auditkit.store import Store, Unit, unit_digest, write_atomically

DIGEST = "ab" * 32


def unit(**changed):
    findings = Findings(
        columns={
            "robust@2/255": np.array([True, False]),
            "distance": np.array([0.25, np.nan]),
            "label": np.array([3, 4], dtype=np.int64),
        },
        exhibits=(
            Exhibit(
                "a/ü.png",
                "cat → dog",
                0.1 + 0.2,
                (
                    Panel("clean", "image", np.arange(12, dtype=np.uint8).reshape(2, 2, 3)),
                    Panel("map", "heat", np.ones((2, 2), dtype=np.float32)),
                ),
            ),
            Exhibit("b", "no picture", -1.0, ()),
        ),
        forwards=np.array([3, 1]),
        attacked=np.arange(12, dtype=np.uint16).reshape(1, 3, 2, 2) * 5000,
        others={"ood/score": np.array([np.inf, np.nan, -1.5]), "ood_sure": np.array([True])},
        tallies={
            "counts": Tally(np.arange(6, dtype=np.int64).reshape(2, 3)),
            "largest/ü": Tally(np.array([0.1 + 0.2, -np.inf]), "largest"),
            "least": Tally(np.zeros(0, dtype=np.float32), "least"),
        },
    )
    return Unit(findings, 1.5)


def test_a_unit_comes_back_bit_for_bit(tmp_path):
    store, wanted = Store(tmp_path / "units"), unit()
    assert not store.holds(DIGEST)
    store.put(DIGEST, wanted)
    assert store.holds(DIGEST)
    got = Store(tmp_path / "units").get(DIGEST)
    assert got.seconds == 1.5
    assert list(got.findings.columns) == list(wanted.findings.columns)
    for name, column in wanted.findings.columns.items():
        assert got.findings.columns[name].dtype == column.dtype
        np.testing.assert_array_equal(got.findings.columns[name], column)
    assert got.findings.forwards.tolist() == [3, 1]
    assert got.findings.backwards is None
    np.testing.assert_array_equal(got.findings.attacked, wanted.findings.attacked)
    assert got.findings.attacked.dtype == np.uint16
    for name in ("others", "tallies"):
        assert list(getattr(got.findings, name)) == list(getattr(wanted.findings, name))
    for name, values in wanted.findings.others.items():
        assert got.findings.others[name].dtype == values.dtype
        np.testing.assert_array_equal(got.findings.others[name], values)
    for name, tally in wanted.findings.tallies.items():
        kept = got.findings.tallies[name]
        assert (kept.combine, kept.array.dtype, kept.array.shape) == (
            tally.combine,
            tally.array.dtype,
            tally.array.shape,
        )
        np.testing.assert_array_equal(kept.array, tally.array)
    for new, old in zip(got.findings.exhibits, wanted.findings.exhibits, strict=True):
        assert (new.sample, new.caption, new.score) == (old.sample, old.caption, old.score)
        for panel, original in zip(new.panels, old.panels, strict=True):
            assert (panel.title, panel.kind) == (original.title, original.kind)
            assert panel.array.dtype == original.array.dtype
            np.testing.assert_array_equal(panel.array, original.array)


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch, fault):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_atomically(tmp_path / "result.json", b"old")
    if fault == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(store_module.Path, "replace", full)
    with pytest.raises(ExecutionError, match="No space left on device"):
        write_atomically(tmp_path / "result.json", b"new and longer")
    with pytest.raises(ExecutionError, match="cannot write"):
        Store(tmp_path / "units").put(DIGEST, unit())
    assert (tmp_path / "result.json").read_bytes() == b"old"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["result.json"]
    assert not Store(tmp_path / "units").holds(DIGEST)


def test_an_interrupt_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_an_error_in_words(tmp_path):
    (tmp_path / "units").write_text("in the way")
    with pytest.raises(ExecutionError, match="cannot write"):
        Store(tmp_path / "units").put(DIGEST, unit())


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other", "pickle"])
def test_a_damaged_unit_is_named_with_what_to_do(tmp_path, damage):
    store = Store(tmp_path)
    store.put(DIGEST, unit())
    path = tmp_path / f"{DIGEST}.npz"
    content = path.read_bytes()
    if damage == "other":
        np.savez(path, other=np.arange(3))
    elif damage == "pickle":
        np.savez(path, meta=np.array([{}], dtype=object))
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"not a zip file"}[damage])
    with pytest.raises(ExecutionError, match="delete it and run the same command again") as caught:
        store.get(DIGEST)
    assert str(path) in str(caught.value)


LESSON = {
    "noise@2/255": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 2, 2),
    "dominant": np.array(3),
    "file": np.array([True, False]),
    "ü": np.array([np.nan, np.inf]),
    "names": np.array(["a/ü.png", ""]),
}


def test_a_lesson_comes_back_bit_for_bit_whatever_its_names(tmp_path):
    Store(tmp_path / "units").put_lesson(DIGEST, LESSON)
    assert Store(tmp_path / "units").holds(DIGEST)
    got = Store(tmp_path / "units").get_lesson(DIGEST)
    assert list(got) == list(LESSON)
    for name, array in LESSON.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got[name], array)


def test_an_empty_lesson_is_a_lesson(tmp_path):
    Store(tmp_path).put_lesson(DIGEST, {})
    assert dict(Store(tmp_path).get_lesson(DIGEST)) == {}


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "pickle", "gone"])
def test_a_damaged_lesson_is_named_in_one_line_with_what_to_do(tmp_path, damage):
    store, path = Store(tmp_path), tmp_path / f"{DIGEST}.npz"
    store.put_lesson(DIGEST, LESSON)
    content = path.read_bytes()
    if damage == "pickle":
        np.savez(path, noise=np.array([{}], dtype=object))
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"not a zip file"}[damage])
    with pytest.raises(ExecutionError, match="delete it and run the same command again") as caught:
        store.get_lesson(DIGEST)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_digest_depends_on_every_value_and_not_on_their_order():
    parts = {"seed": 0, "samples": "x", "options": {"eps": ["8/255"], "steps": 40}}
    turned = {"options": {"steps": 40, "eps": ["8/255"]}, "samples": "x", "seed": 0}
    assert unit_digest(parts) == unit_digest(turned)
    for change in ({"seed": 1}, {"samples": "y"}, {"options": {"eps": ["8/255"], "steps": 41}}, {"more": None}):
        assert unit_digest({**parts, **change}) != unit_digest(parts)
