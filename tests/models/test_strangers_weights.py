"""Weights and pickles of strangers run no code, whatever their suffix and however they are packed."""

from __future__ import annotations

import io
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from strangers import Marker, Small, entries_of, pickled, saved, write_archive

from auditkit.errors import AuditError, ExecutionError, UsageError
from auditkit.models.inspection.pickle import imported_names
from auditkit.models.open import load_model

CPU = torch.device("cpu")
FACTORY = "from torch import nn\n\n\ndef network():\n    return nn.Linear(4, 5)\n"
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "factory.py").write_text(FACTORY)
    return f"{tmp_path / 'factory.py'}:network"


def refusal(source, kind=UsageError, **options):
    with pytest.raises(kind) as caught:
        load_model(source, device=CPU, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    return message


def old_format(thing):
    buffer = io.BytesIO()
    torch.save(thing, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def with_archive_inside(thing, path):
    """Return weights with an archive of a pickle among their tensors."""
    write_archive(path, {"a/data.pkl": saved(thing), "a/version": b"3\n", "a/data/0": saved(thing)})
    return path.read_bytes()


FORMS = {
    "archive": lambda marker, path: saved(marker),
    "in a state dict": lambda marker, path: saved({"weight": torch.zeros(5, 4), "bias": marker}),
    "format of an old torch": lambda marker, path: old_format(marker),
    "plain pickle": lambda marker, path: pickled(marker),
    "archive in an archive": lambda marker, path: with_archive_inside(marker, path),
    "protocol 0": lambda marker, path: pickle.dumps(marker, protocol=0),
    "behind a good pickle": lambda marker, path: pickled({}) + pickled(marker),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("form", FORMS)
def test_a_pickle_as_model_or_as_weights_runs_nothing(tmp_path, factory, form, suffix):
    marker = tmp_path / "marker"
    path = tmp_path / f"net{suffix}"
    path.write_bytes(FORMS[form](Marker(marker), tmp_path / "inner.zip"))
    refusal(path, AuditError)
    refusal(factory, AuditError, weights=path)
    assert not marker.exists()


def test_what_is_refused_would_have_run(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "net.pt").write_bytes(saved(Marker(marker)))
    torch.load(tmp_path / "net.pt", weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_honest_weights_load_in_every_format(tmp_path, factory, suffix):
    state = torch.nn.Linear(4, 5).state_dict()
    for content in (saved(state), old_format(state), saved({"state_dict": state, "epoch": 2})):
        (tmp_path / f"net{suffix}").write_bytes(content)
        loaded = load_model(factory, weights=tmp_path / f"net{suffix}", device=CPU)
        assert torch.equal(loaded.network.weight, state["weight"])


def header(content, size=0):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


ABSURD = {
    "empty": b"",
    "no header": b"\x00" * 8,
    "longer than the file": (2**63).to_bytes(8, "little") + b"{}",
    "longer than there is": (10**9).to_bytes(8, "little") + b"{}",
    "no JSON": header(b"\xff\xfe"),
    "a list": header([]),
    "deep": header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "beyond the file": header({"weight": {"dtype": "F32", "shape": [5, 4], "data_offsets": [0, 80]}}),
    "too large to be": header({"weight": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 80]}}, 80),
    "over each other": header(
        {
            "weight": {"dtype": "F32", "shape": [5, 4], "data_offsets": [0, 80]},
            "bias": {"dtype": "F32", "shape": [5], "data_offsets": [60, 80]},
        },
        80,
    ),
    "backwards": header({"weight": {"dtype": "F32", "shape": [5, 4], "data_offsets": [80, 0]}}, 80),
    "unknown kind": header({"weight": {"dtype": "OBJ", "shape": [5, 4], "data_offsets": [0, 80]}}, 80),
}


@pytest.mark.parametrize("name", ABSURD)
def test_an_absurd_header_of_safetensors_is_refused_with_one_line(tmp_path, factory, name):
    path = tmp_path / "net.safetensors"
    path.write_bytes(ABSURD[name])
    refusal(factory, weights=path)


def test_names_of_weights_do_not_steer_the_terminal(tmp_path, factory):
    save_file({"\x1b[2J\nweight": torch.zeros(5, 4)}, tmp_path / "net.safetensors")
    assert "does not fit the network" in refusal(factory, weights=tmp_path / "net.safetensors")


def test_an_archive_of_weights_with_tricks_is_refused(tmp_path, factory):
    path = tmp_path / "net.ckpt"
    path.write_bytes(saved(torch.nn.Linear(4, 5).state_dict()))
    write_archive(path, entries_of(path) | {"../escape": b"x"})
    assert "torch never writes an entry of the name" in refusal(factory, weights=path)


def test_imported_names_are_read_off_every_kind_of_pickle(tmp_path):
    marker = Marker(tmp_path / "marker")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert imported_names(pickle.dumps(marker, protocol=protocol)) == [f"{os.mkdir.__module__}.mkdir"]
        assert imported_names(pickle.dumps([marker, marker, {"a": marker}], protocol=protocol)) == ["posix.mkdir"]
    assert not (tmp_path / "marker").exists()


def test_names_that_a_pickle_puts_together_are_not_overlooked():
    built = b"\x80\x04" + b"\x8c\x02os" + b"\x94" + b"\x8c\x06system" + b"0" + b"h\x00" + b"h\x00" + b"\x93."
    (name,) = imported_names(built)
    assert name not in ("", "torch.FloatStorage")
    assert imported_names(b"\x80\x04}(K\x01\x93.") == ["a name that is put together while loading"]
    assert imported_names(b"\x80\x02\x82\x05.") == ["a name that is put together while loading"]


def test_what_is_no_pickle_has_no_names():
    with pytest.raises(ValueError, match="no pickle"):
        imported_names(b"hello")


def test_a_module_in_a_pickle_is_refused_and_loads_with_trust(tmp_path):
    torch.save(Small(), tmp_path / "net.pt")
    assert "add --trust-pickle if you trust its origin" in refusal(tmp_path / "net.pt")
    assert load_model(tmp_path / "net.pt", device=CPU, trust_pickle=True).network is not None


def test_weights_are_no_model_even_with_trust(tmp_path):
    torch.save(Small().state_dict(), tmp_path / "net.pt")
    assert "holds weights, not a network" in refusal(tmp_path / "net.pt", trust_pickle=True)


def test_an_archive_that_is_cut_short_is_called_damaged(tmp_path, factory):
    content = saved(torch.nn.Linear(4, 5).state_dict())
    (tmp_path / "net.pt").write_bytes(content[: len(content) // 2])
    assert "is damaged" in refusal(tmp_path / "net.pt", ExecutionError)
    assert "is damaged" in refusal(factory, ExecutionError, weights=tmp_path / "net.pt")
