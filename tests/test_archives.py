"""Archives of arrays from strangers: refused before anything larger than it says, or pickled, is unpacked."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from auditkit import archives
from auditkit.archives import available_memory, read_arrays

MEGABYTE = 2**20


def _npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _zip(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def _npy(shape: object, descr: object = "|u1", body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + body


def _refusal(content: bytes, names: list[str] | None = None) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        read_arrays(io.BytesIO(content), names)
    message = str(caught.value)
    assert message.isprintable(), message
    return message


def test_arrays_come_back_as_numpy_wrote_them():
    wanted = {
        "x": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "names": np.array(["stop", "gib acht"]),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "scalar": np.array(3.5),
    }
    found, stored = read_arrays(io.BytesIO(_npz(**wanted)))
    assert stored == tuple(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def test_arrays_that_nobody_asked_for_are_not_read():
    content = _zip(("x.npy", _npy((2,), body=b"ab")), ("bad.npy", b"no array"), ("notes.txt", b"hello"))
    found, stored = read_arrays(io.BytesIO(content), ["x", "y"])
    assert (list(found), stored) == (["x"], ("x", "bad"))


def test_a_header_that_claims_more_than_there_is_allocates_nothing(monkeypatch):
    monkeypatch.setattr(np.lib.format, "read_array", None)  # never reached
    assert "speaks of 1000000000000 bytes, and 2 follow" in _refusal(_zip(("x.npy", _npy((10**12,), body=b"ab"))))


@pytest.mark.parametrize("shape", [(-1,), (-2, -1), (2**62, 2**62), (10**400,)])
def test_shapes_that_no_array_has_are_refused(shape):
    _refusal(_zip(("x.npy", _npy(shape, body=b"ab"))))


def test_elements_of_no_size_are_refused_because_any_number_of_them_fits():
    assert "which no array has" in _refusal(_zip(("x.npy", _npy((10**12,), "<U0"))))


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    bomb = _zip(("x.npy", _npy((50 * MEGABYTE,), body=bytes(50 * MEGABYTE))), method=zipfile.ZIP_DEFLATED)
    assert len(bomb) < MEGABYTE
    monkeypatch.setattr(archives, "available_memory", lambda: 40 * MEGABYTE)
    assert "its arrays take 0.1 GB of memory, and 0.0 GB are left" in _refusal(bomb)


def test_the_sizes_of_all_arrays_count_together(monkeypatch):
    content = _npz(x=np.zeros(MEGABYTE, dtype=np.uint8), y=np.zeros(MEGABYTE, dtype=np.uint8))
    monkeypatch.setattr(archives, "available_memory", lambda: MEGABYTE + 10)
    assert read_arrays(io.BytesIO(content), ["x"])[0]["x"].size == MEGABYTE
    _refusal(content)


def test_two_arrays_of_one_name_are_refused_because_readers_would_disagree():
    both = _zip(("x.npy", _npy((1,), body=b"a")), ("x.npy", _npy((1,), body=b"b")))
    assert "two of its arrays are called x" in _refusal(both)


def test_pickles_are_refused_and_not_loaded():
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([os.system], dtype=object))
    assert "pickled Python objects" in _refusal(buffer.getvalue())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"no archive",
        _npy((2,), body=b"ab"),
        _zip(("x.npy", b"")),
        _zip(("x.npy", _npy("(((("))),
        _zip(("x.npy", _npy((1,), [("a", "|O")], b"12345678"))),
        _zip(("x.npy", _npy((2,), body=b"ab", version=b"\x09\x00"))),
        _zip(("x.npy", _npy((1,), [("a", "<U1")], b"\xff\xff\xff\xff"))),
        _zip(("x.npy", b"\x93NUMPY\x01\x00\x0a\x00" + b"(" * 10)),
    ],
)
def test_whatever_else_is_no_archive_is_refused_in_one_line(content):
    _refusal(content)


@pytest.mark.parametrize("order", ["<", ">"])
def test_texts_of_characters_that_do_not_exist_are_refused_because_python_crashes_on_them(order):
    last, none = (np.array([point], dtype=f"{order}u4").tobytes() for point in (0x10FFFF, 0x110000))
    found, _ = read_arrays(io.BytesIO(_zip(("x.npy", _npy((1,), f"{order}U1", last)))))
    assert found["x"].tolist() == ["\U0010ffff"]
    assert "do not exist" in _refusal(_zip(("x.npy", _npy((1,), f"{order}U1", none))))


def test_the_memory_that_is_left_is_told_in_bytes():
    room = available_memory()
    assert room is None or 2**20 < room < 2**50


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text(f"{3 * MEGABYTE}\n")
    (tmp_path / "memory.current").write_text(f"{MEGABYTE}\n")
    monkeypatch.setattr(archives, "_CGROUP", Path(tmp_path))
    assert available_memory() == 2 * MEGABYTE
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() != 2 * MEGABYTE
