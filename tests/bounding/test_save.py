"""Files of bounded networks load where there is no auditkit, and compute the same."""

from __future__ import annotations

import subprocess
import sys
import warnings

import onnx
import pytest
import torch
from onnx_graphs import model_of, numbers
from rectified_networks import Branching, Perceptron, Relatives, Shared, Tokens, rectified

from auditkit.bounding import (
    bounded_copy,
    bounded_onnx,
    find_sites,
    onnx_twin_with_sites,
    save_bounded,
    save_bounded_onnx,
)
from auditkit.errors import ExecutionError, UsageError
from auditkit.models.batching import InFixedBatches
from auditkit.models.open import load_model
from auditkit.models.preprocess import Preprocessed, Preprocessing

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(7))
CPU = torch.device("cpu")

PLAIN = """
import sys
sys.modules["auditkit"] = None  # importing it would fail
import torch
images, wanted = torch.load("case.pt").values()
if sys.argv[1].endswith(".pt"):
    network = torch.jit.load(sys.argv[1])
elif sys.argv[1].endswith(".pt2"):
    network = torch.export.load(sys.argv[1]).module()
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    network = lambda images: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
with torch.no_grad():
    torch.testing.assert_close(network(images), wanted)
    torch.testing.assert_close(network(images[:3]), wanted[:3])
"""


def bounded(network, overflow="fold", share=0.3):
    return bounded_copy(network, IMAGES, [share] * len(find_sites(network, IMAGES)), overflow, 0.1)


def onnx_graph(channels=5):
    nodes = [
        onnx.helper.make_node("Conv", ["image", "k"], ["c"]),
        onnx.helper.make_node("Relu", ["c"], ["r"]),
        onnx.helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        onnx.helper.make_node("Flatten", ["p"], ["scores"]),
    ]
    return model_of(nodes, {"k": 3 * numbers(channels, 3, 3, 3)}, ("n", 3, 8, 8), ("n", channels))


def load_plainly(path, wanted):
    torch.save({"images": IMAGES, "wanted": wanted}, path.parent / "case.pt")
    command = [sys.executable, "-W", "ignore", "-c", PLAIN, str(path)]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_a_torch_file_loads_in_a_program_without_auditkit(tmp_path, suffix):
    network = bounded(rectified(Relatives))
    save_bounded(network, IMAGES, tmp_path / f"hard{suffix}")
    with torch.no_grad():
        load_plainly(tmp_path / f"hard{suffix}", network.network(IMAGES))


def test_an_onnx_file_loads_in_a_program_without_auditkit_and_in_auditkit(tmp_path):
    graph = bounded_onnx(onnx_graph(), [torch.tensor([0.1, 0.2, 0.3, 0.2, 0.1])], "fold", 0.1)
    save_bounded_onnx(graph, tmp_path / "hard.onnx")
    with torch.no_grad():
        wanted = bounded_copy(
            onnx_twin_with_sites(onnx_graph()), IMAGES, [torch.tensor([0.1, 0.2, 0.3, 0.2, 0.1])], "fold", 0.1
        ).network(IMAGES)
    load_plainly(tmp_path / "hard.onnx", wanted)
    loaded = load_model(tmp_path / "hard.onnx", device=CPU)
    torch.testing.assert_close(loaded.run(IMAGES), wanted)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(IMAGES), wanted)


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
@pytest.mark.parametrize("kind", [Shared, Perceptron, Tokens])
def test_auditkit_loads_what_was_written(tmp_path, kind, suffix):
    network = bounded(rectified(kind))
    path = tmp_path / f"hard{suffix}"
    save_bounded(network, IMAGES, path)
    loaded = load_model(path, device=CPU)
    images = IMAGES.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = loaded.network(images)
        (gradient,) = torch.autograd.grad(got.sum(), images)
    wanted = network.network(images)
    (wanted_gradient,) = torch.autograd.grad(wanted.sum(), images)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(gradient, wanted_gradient)


def test_preprocessing_becomes_part_of_the_file(tmp_path):
    network = bounded(Preprocessed(rectified(Shared), Preprocessing(mean=(0.5,), std=(0.2,))))
    save_bounded(network, IMAGES, tmp_path / "hard.pt")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "hard.pt", device=CPU).run(IMAGES), network.network(IMAGES))


def test_a_fixed_number_of_images_is_kept_where_the_format_says_so(tmp_path):
    network = bounded(InFixedBatches(rectified(Shared), 3))
    save_bounded(network, IMAGES, tmp_path / "hard.pt2")
    loaded = load_model(tmp_path / "hard.pt2", device=CPU)
    with torch.no_grad():
        torch.testing.assert_close(loaded.run(IMAGES), network.network(IMAGES))
    with pytest.raises(ExecutionError, match=r"takes 3 images at a time; \.pt2 says so, \.pt cannot"):
        save_bounded(network, IMAGES, tmp_path / "hard.pt")


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_a_network_that_branches_on_its_values_is_not_written_for_one_branch(tmp_path, suffix):
    with pytest.raises(ExecutionError, match="branches on its values, which no file of torch keeps"):
        save_bounded(bounded(rectified(Branching)), IMAGES, tmp_path / f"hard{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_removed(tmp_path):
    class Counting(Perceptron):
        def forward(self, images):
            return super().forward(images) * len(images)

    with pytest.raises(ExecutionError, match="does not compute what the network does, and was removed"):
        save_bounded(bounded(rectified(Counting)), IMAGES, tmp_path / "hard.pt")
    assert not list(tmp_path.iterdir())


def test_large_weights_go_beside_the_onnx_file(tmp_path, monkeypatch):
    monkeypatch.setattr("auditkit.bounding.save._LARGEST_MESSAGE", 1000)
    graph = bounded_onnx(onnx_graph(channels=20), [0.2])
    wanted = graph.model.SerializeToString()
    save_bounded_onnx(graph, tmp_path / "hard.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hard.onnx", "hard.onnx.data"]
    assert load_model(tmp_path / "hard.onnx", device=CPU).run(IMAGES).shape == (4, 20)
    assert graph.model.SerializeToString() == wanted


def test_wrong_endings_and_too_few_images_are_refused(tmp_path):
    network = bounded(rectified(Shared))
    with pytest.raises(UsageError, match=r"a \.pt or \.pt2 file; got .*hard\.pth"):
        save_bounded(network, IMAGES, tmp_path / "hard.pth")
    with pytest.raises(UsageError, match=r"two images or more are needed to write .*; got 1"):
        save_bounded(network, IMAGES[:1], tmp_path / "hard.pt")
    with pytest.raises(UsageError, match=r"a \.onnx file; got .*hard\.pt"):
        save_bounded_onnx(bounded_onnx(onnx_graph(), [0.2]), tmp_path / "hard.pt")
