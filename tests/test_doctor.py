"""`auditkit doctor --model` says what a file is and what loading it would run, and loads nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from onnx import helper
from safetensors.torch import save_file
from strangers import Marker, Small, classifier_nodes, exported, graph_of, reprogrammed, saved, written

from auditkit.cli import cli
from auditkit.doctor import examine_model
from auditkit.errors import UsageError
from auditkit.models.open import load_model


def doctor(path):
    done = CliRunner().invoke(cli, ["doctor", "--model", str(path)], standalone_mode=False)
    assert all(line.isprintable() for line in done.output.splitlines())
    return done.return_value if done.exception is None else done.exception, done.output


def script(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Small().eval()).save(str(path))
    return path


def test_an_onnx_file_is_described(tmp_path):
    nodes = [helper.make_node("Add", ["image", "shift"], ["shifted"]), *classifier_nodes("shifted")]
    path = written(tmp_path / "net.onnx", graph_of(nodes, {"shift": np.ones((1, 3, 1, 1), dtype=np.float32)}))
    code, output = doctor(path)
    assert code == 0
    assert f"SHA-256: {hashlib.sha256(path.read_bytes()).hexdigest()}" in output
    for line in (
        f"size: {path.stat().st_size} bytes",
        "format: ONNX, IR version 8, operator sets: ai.onnx 17, com.microsoft 1",
        "nodes: 3",
        "parameters: 3 numbers in 1 tensors",
        "input: image: float [N, 3, 8, 8]",
        "output: scores: float []",
        "domains of operators: ai.onnx (3 nodes)",
        "loading runs: no code of the file: a graph of operators",
        "auditkit would load this as MODEL",
    ):
        assert line in output.splitlines()


@pytest.mark.parametrize(("location", "code"), [("net.data", 0), ("../net.data", 2)])
def test_external_data_is_named_and_whether_it_is_confined(tmp_path, location, code):
    (tmp_path / "folder").mkdir()
    for place in (tmp_path, tmp_path / "folder"):
        (place / "net.data").write_bytes(np.ones(3, dtype=np.float32).tobytes())
    model = graph_of([helper.make_node("Add", ["image", "shift"], ["shifted"]), *classifier_nodes("shifted")])
    tensor = model.graph.initializer.add(name="shift", data_type=1, dims=[1, 3, 1, 1], data_location=1)
    tensor.external_data.add(key="location", value=location)
    returned, output = doctor(written(tmp_path / "folder" / "net.onnx", model))
    assert returned == code
    assert f"external data named: '{location}'" in output
    assert ("external data: net.data, in the model's folder" in output) == (code == 0)


def test_an_operator_of_a_library_is_told_as_what_it_is(tmp_path):
    model = graph_of(
        [helper.make_node("Odd", ["image"], ["odd"], domain="com.example"), *classifier_nodes("odd")],
        domains=("com.example",),
    )
    code, output = doctor(written(tmp_path / "net.onnx", model))
    assert code == 2
    assert "domains of operators: ai.onnx (2 nodes), com.example (1 nodes)" in output
    assert "auditkit would refuse this" in output


def test_a_script_is_described(tmp_path):
    code, output = doctor(script(tmp_path / "net.pt"))
    assert code == 0
    for words in (
        "format: TorchScript",
        "functions in",
        "loading runs: TorchScript code: torch's operators, no Python",
    ):
        assert words in output


def test_an_exported_program_is_described(tmp_path):
    code, output = doctor(exported(tmp_path / "net.pt2"))
    assert code == 0
    for line in (
        "format: torch.export",
        f"producer: torch {torch.__version__}",
        "nodes: 4",
        "input: images [any, 3, 8, 8]",
        "output: linear [any, 5]",
        "domains of operators: torch.ops.aten (4 nodes)",
    ):
        assert line in output.splitlines()


def test_an_exported_program_with_code_in_it_is_told_without_running_it(tmp_path):
    marker = tmp_path / "marker"

    def change(program):
        node = program["graph_module"]["graph"]["nodes"][0]
        node["target"] = f"__import__('os').mkdir('{marker}')"

    code, output = doctor(reprogrammed(exported(tmp_path / "net.pt2"), change))
    assert code == 2
    assert "auditkit would refuse this" in output
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
def test_the_imports_of_a_pickle_are_named_and_not_made(tmp_path, suffix):
    marker = tmp_path / "marker"
    path = tmp_path / f"net{suffix}"
    path.write_bytes(saved({"weight": torch.zeros(3), "more": Marker(marker)}))
    code, output = doctor(path)
    assert code == 2
    assert "loading runs: opcodes of a pickle that import: posix.mkdir" in output
    assert "is a pickle, and loading one runs the code inside it" in output
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".safetensors"])
def test_weights_are_told_to_be_weights(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(Small().state_dict(), path)
    else:
        torch.save(Small().state_dict(), path)
    code, output = doctor(path)
    assert code == 0
    assert "auditkit would load this as --weights, with a factory as MODEL: it holds weights, not a network" in output


@pytest.mark.parametrize(
    "name", ["net.onnx", "net.pt", "net.pt2", "net.ckpt", "net.bin", "net.safetensors", "net.txt", "net"]
)
@pytest.mark.parametrize("content", [b"", b"hello\x1b[2J", b"PK\x03\x04", b"\x80\x04"])
def test_a_file_that_is_none_is_told_to_be_none(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    code, output = doctor(tmp_path / name)
    assert code == 2
    assert "auditkit would refuse this" in output.splitlines()[-1]


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        examine_model(tmp_path / "net.onnx")


def test_the_doctor_says_what_loading_would_say(tmp_path):
    path = written(tmp_path / "net.onnx", graph_of(classifier_nodes("nowhere")))
    with pytest.raises(UsageError) as caught:
        load_model(path, device=torch.device("cpu"))
    assert str(caught.value) in doctor(path)[1]


def test_the_doctor_of_this_machine_is_as_it_was():
    done = CliRunner().invoke(cli, ["doctor"], standalone_mode=False)
    assert "checks installed" in done.output
    assert "cpu:" in done.output


def test_help_loads_no_framework():
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom auditkit.cli import cli\n"
        "out = CliRunner().invoke(cli, ['doctor', '--help']).output\nassert '--model' in out\n"
        "print(*sorted(sys.modules.keys() & {'torch', 'onnx', 'onnxruntime', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
