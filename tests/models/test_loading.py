"""Every kind of model file gives the scores of the network it was made from, and gradients where it can."""

from __future__ import annotations

import contextlib
import sys
import textwrap
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from auditkit import Capability, UsageError, audit
from auditkit.config import settings_from
from auditkit.models.base import Model
from auditkit.preparing import set_up
from auditkit.workbench import Recipe, Workbench

SIDE = 12
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class Net(nn.Module):
    """A small network with everything that evaluation mode changes."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(8, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = functional.relu(self.norm(self.convolution(images)))
        return self.classifier(self.dropout(features.mean((2, 3))))


def network(channels: int = 3, classes: int = 5) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net(channels, classes)
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2.0)
    return net.eval().requires_grad_(False)


def pixels(channels: int = 3, n: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE, channels), dtype=np.uint8)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.transpose(0, 3, 1, 2).astype(np.float32) / 255)


@pytest.fixture
def images() -> torch.Tensor:
    return as_tensor(pixels())


def bench_of(model: object, channels: int = 3, data: object = None, **settings: object) -> Workbench:
    if data is None:
        data = (as_tensor(pixels(channels)), torch.zeros(20, dtype=torch.int64))
    recipe = Recipe(model, data, settings_from({"precision": "float32", "device": "cpu", **settings}))
    return set_up(recipe)


def assert_is(bench: Workbench, net: nn.Module, images: torch.Tensor, logits: torch.Tensor | None = None) -> Model:
    """Hold a workbench to the network it was made from: the same scores, the same gradients."""
    wanted = net(images) if logits is None else logits
    torch.testing.assert_close(bench.model.logits(images), wanted, **CLOSE)
    for rows in (1, 3):
        assert torch.equal(bench.model.logits(images)[:rows], bench.model.logits(images[:rows]))
    assert bench.model.info.classes == wanted.shape[1]
    assert Capability.GRADIENTS in bench.model.capabilities, bench.model.no_gradients
    leaf = images.clone().requires_grad_()
    (true,) = torch.autograd.grad(net(leaf).amax(1).sum(), leaf)
    for differentiable in (bench.model.exact, bench.search):
        _, gradient = differentiable.gradient(images, lambda scores: scores.amax(1))
        torch.testing.assert_close(gradient, true, rtol=1e-3, atol=1e-6)
    return bench.model


def onnx_of(
    net: Net,
    path: Path,
    batch: int | str = "N",
    *,
    layout: str = "nchw",
    softmax: bool = False,
    scale: float = 1.0,
    reverse: bool = False,
) -> Path:
    """Write `net` as an ONNX graph: Conv, BatchNormalization, Relu, GlobalAveragePool, Flatten, Gemm."""
    state = {name: value.numpy() for name, value in net.state_dict().items() if value.dim()}
    weight = state["convolution.weight"] / scale
    state["convolution.weight"] = np.ascontiguousarray(weight[:, ::-1]) if reverse else weight.astype(np.float32)
    channels = weight.shape[1]
    shape = [batch, SIDE, SIDE, channels] if layout == "nhwc" else [batch, channels, SIDE, SIDE]
    nodes = [
        *([helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2])] if layout == "nhwc" else []),
        helper.make_node(
            "Conv", ["first" if layout == "nhwc" else "image", "convolution.weight"], ["c"], pads=[1, 1, 1, 1]
        ),
        helper.make_node(
            "BatchNormalization",
            ["c", *(f"norm.{n}" for n in ("weight", "bias", "running_mean", "running_var"))],
            ["n"],
        ),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "classifier.weight", "classifier.bias"], ["g"], transB=1),
        *([helper.make_node("Softmax", ["g"], ["s"], axis=1)] if softmax else []),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(
                "s" if softmax else "g", TensorProto.FLOAT, [batch, net.classifier.out_features]
            )
        ],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in state.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def exported(net: nn.Module, path: Path, batch: int, *, dynamic: bool) -> Path:
    example = torch.rand(batch, 3, SIDE, SIDE)
    shapes = {"images": {0: torch.export.Dim("batch")}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(net, (example,), dynamic_shapes=shapes), path)
    return path


def factory_file(folder: Path, extra: str = "") -> Path:
    file = folder / "factories.py"
    file.write_text(
        textwrap.dedent("""
            import torch
            from torch import nn
            from torch.nn import functional

            class Net(nn.Module):
                def __init__(self, channels=3, classes=5):
                    super().__init__()
                    self.convolution = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
                    self.norm = nn.BatchNorm2d(8)
                    self.dropout = nn.Dropout(0.5)
                    self.classifier = nn.Linear(8, classes)

                def forward(self, images):
                    features = functional.relu(self.norm(self.convolution(images)))
                    return self.classifier(self.dropout(features.mean((2, 3))))

            def from_path(weights):
                net = Net()
                net.load_state_dict(torch.load(weights, weights_only=True))
                return net
        """)
        + textwrap.dedent(extra)
    )
    return file


class TestTorch:
    def test_script(self, tmp_path, images):
        net = network()
        torch.jit.script(net).save(tmp_path / "net.pt")
        model = assert_is(bench_of(tmp_path / "net.pt"), net, images)
        assert model.info.format == "torchscript"

    def test_script_saved_in_training_mode_is_put_into_evaluation_mode(self, tmp_path, images):
        net = network()
        torch.jit.script(network().train()).save(tmp_path / "net.pt")
        assert_is(bench_of(tmp_path / "net.pt"), net, images)

    def test_trace(self, tmp_path, images):
        net = network()
        torch.jit.trace(net, images[:2]).save(tmp_path / "net.pt")
        assert_is(bench_of(tmp_path / "net.pt"), net, images)

    @pytest.mark.parametrize("name", ["net.pt2", "net.pt"])
    def test_export_with_any_batch(self, tmp_path, images, name):
        net = network()
        exported(net, tmp_path / "net.pt2", 4, dynamic=True).rename(tmp_path / name)
        model = assert_is(bench_of(tmp_path / name), net, images)
        assert model.info.format == "torch.export"

    @pytest.mark.parametrize("batch", [1, 4])
    def test_export_with_a_fixed_batch(self, tmp_path, images, batch):
        net = network()
        assert_is(bench_of(exported(net, tmp_path / "net.pt2", batch, dynamic=False)), net, images)

    def test_factory_of_a_module(self, tmp_path, images, monkeypatch):
        factory_file(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "factories", raising=False)
        net = network()
        save_file(net.state_dict(), tmp_path / "net.safetensors")
        assert_is(bench_of("factories:Net", weights=tmp_path / "net.safetensors"), net, images)
        sys.modules.pop("factories")

    @pytest.mark.parametrize("form", ["safetensors", "state dict", "without counters", "checkpoint", "by the factory"])
    def test_factory_of_a_file_with_weights(self, tmp_path, images, form):
        net = network()
        spec = f"{factory_file(tmp_path)}:Net"
        weights = tmp_path / "net.pt"
        state = net.state_dict()
        match form:
            case "safetensors":
                weights = tmp_path / "net.safetensors"
                save_file(state, weights)
            case "without counters":
                torch.save({name: value for name, value in state.items() if value.dim()}, weights)
            case "checkpoint":
                torch.save({"state_dict": state, "epoch": 3}, weights)
            case _:
                torch.save(state, weights)
        if form == "by the factory":
            spec = f"{tmp_path}/factories.py:from_path"
        assert_is(bench_of(spec, weights=weights), net, images)

    def test_network_in_memory_is_given_back_as_it_was(self, images):
        net = network().train()
        net.classifier.weight.requires_grad_(True)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        random = torch.get_rng_state()
        data = (images, torch.arange(20) % 5)
        result = audit(net, data, checks=["noise.pgd", "explain.saliency"], options={"noise.pgd": {"steps": 2}}).result
        assert [check.status for check in result.checks] == ["done", "done"]
        assert all(module.training for module in net.modules())
        assert net.classifier.weight.requires_grad
        assert not net.convolution.weight.requires_grad
        assert net.classifier.weight.grad is None
        assert torch.equal(torch.get_rng_state(), random)
        for name, value in net.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_network_in_memory(self, images):
        net = network()
        model = assert_is(bench_of(net), net, images)
        assert model.info.format == "torch"

    @pytest.mark.parametrize("kind", ["tuple", "list", "object", "maps"])
    def test_whatever_it_returns(self, images, kind):
        class Wrapped(Net):
            def forward(self, images):
                logits = super().forward(images)
                match kind:
                    case "tuple":
                        return logits, images
                    case "list":
                        return [logits]
                    case "maps":
                        return logits[:, :, None, None]
                return SimpleNamespace(logits=logits, hidden=None)

        net = network()
        wrapped = Wrapped().eval()
        wrapped.load_state_dict(net.state_dict())
        assert_is(bench_of(wrapped), net, images)

    def test_grey_images(self):
        net = network(channels=1)
        bench = bench_of(net, channels=1)
        assert_is(bench, net, as_tensor(pixels(1)))

    @pytest.mark.parametrize("classes", [2, 1000])
    def test_number_of_classes(self, images, classes):
        net = network(classes=classes)
        assert_is(bench_of(net), net, images)

    def test_range_normalisation_and_channel_order(self, images):
        net = network()

        class Odd(nn.Module):
            """Takes BGR in 0..255, with mean and deviation removed."""

            def __init__(self):
                super().__init__()
                self.inner = net

            def forward(self, inputs):
                mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in ([10.0, 20.0, 30.0], [50.0, 60.0, 70.0]))
                return self.inner((inputs.flip(1) * std + mean) / 255)

        bench = bench_of(Odd(), input_range="255", mean="10,20,30", std="50,60,70", channel_order="bgr")
        assert_is(bench, net, images)

    def test_symmetric_range(self, images):
        net = network()

        class Symmetric(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = net

            def forward(self, inputs):
                return self.inner((inputs + 1) / 2)

        assert_is(bench_of(Symmetric(), input_range="-1,1"), net, images)

    def test_probabilities(self, images):
        net = network()
        bench = bench_of(nn.Sequential(net, nn.Softmax(1)), outputs="probabilities")
        torch.testing.assert_close(bench.model.logits(images), net(images).log_softmax(1), **CLOSE)
        assert Capability.GRADIENTS in bench.model.capabilities


class TestOnnx:
    def test_any_batch(self, tmp_path, images):
        net = network()
        model = assert_is(bench_of(onnx_of(net, tmp_path / "net.onnx")), net, images)
        assert model.info.provider == "CPUExecutionProvider"
        assert model.info.input_shape == (3, SIDE, SIDE)

    @pytest.mark.parametrize("batch", [1, 4])
    def test_fixed_batch_is_freed(self, tmp_path, images, batch):
        net = network()
        model = assert_is(bench_of(onnx_of(net, tmp_path / "net.onnx", batch)), net, images)
        assert model.batching.fixed != batch

    @pytest.mark.parametrize("batch", [1, 4])
    def test_fixed_batch_that_cannot_be_freed(self, tmp_path, images, batch):
        """The number of images is also written into a Reshape."""
        net = network()
        path = onnx_of(net, tmp_path / "net.onnx", batch)
        model = onnx.load(path)
        (flatten,) = [node for node in model.graph.node if node.op_type == "Flatten"]
        flatten.CopyFrom(helper.make_node("Reshape", ["p", "size"], ["f"]))
        model.graph.initializer.append(numpy_helper.from_array(np.array([batch, 8]), "size"))
        onnx.save(model, path)
        assert_is(bench_of(path), net, images)

    def test_grey_images_and_two_classes(self, tmp_path):
        net = network(channels=1, classes=2)
        assert_is(bench_of(onnx_of(net, tmp_path / "net.onnx"), channels=1), net, as_tensor(pixels(1)))

    def test_channels_last(self, tmp_path, images):
        net = network()
        bench = bench_of(onnx_of(net, tmp_path / "net.onnx", layout="nhwc"), layout="nhwc")
        assert assert_is(bench, net, images).info.input_shape == (3, SIDE, SIDE)

    def test_channel_order_and_range(self, tmp_path, images):
        net = network()
        bench = bench_of(
            onnx_of(net, tmp_path / "net.onnx", scale=255.0, reverse=True), input_range="255", channel_order="bgr"
        )
        assert_is(bench, net, images)

    def test_softmax_at_the_end(self, tmp_path, images):
        net = network()
        net.classifier.weight.mul_(100)
        bench = bench_of(onnx_of(net, tmp_path / "net.onnx", softmax=True), outputs="probabilities")
        wanted = net(images).log_softmax(1)
        torch.testing.assert_close(bench.model.logits(images), wanted.clamp(min=np.log(1e-30)), rtol=1e-3, atol=1e-3)
        assert Capability.GRADIENTS in bench.model.capabilities, bench.model.no_gradients
        _, gradient = bench.model.exact.gradient(images, lambda scores: scores.amin(1))
        assert (gradient.flatten(1).abs().amax(1) > 0).all(), "a saturated softmax must not hide the gradient"

    def test_audit_of_it(self, tmp_path, images):
        path = onnx_of(network(), tmp_path / "net.onnx")
        np.savez(tmp_path / "data.npz", x=pixels(), y=np.zeros(20, dtype=np.int64))
        options = {"noise.pgd": {"steps": 3}}
        result = audit(path, tmp_path / "data.npz", checks=["noise.pgd", "explain.saliency"], options=options).result
        assert [check.status for check in result.checks] == ["done", "done"]
        assert result.model.gradients.startswith("a torch twin of the ONNX graph")


class Detached(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.detach())


class Rounding(Net):
    """Differentiates without a complaint, to nothing at all."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward((images * 255).round() / 255)


def test_network_without_gradients_is_audited_with_black_box_checks(images):
    net = Detached().eval()
    bench = bench_of(net)
    assert Capability.GRADIENTS not in bench.model.capabilities
    assert "no gradient reaches the image" in bench.model.no_gradients
    assert bench.search is None
    with torch.no_grad():
        torch.testing.assert_close(bench.model.logits(images), net(images), **CLOSE)
        labels = net(images).argmax(1)
    result = audit(net, (images, labels), checks=["noise.pgd", "noise.uniform", "explain.saliency"]).result
    by_key = {check.key: check for check in result.checks}
    assert {key: check.status for key, check in by_key.items()} == {
        "noise.pgd": "skipped",
        "noise.uniform": "done",
        "explain.saliency": "skipped",
    }
    assert "no gradient reaches the image" in by_key["noise.pgd"].reason
    assert by_key["noise.uniform"].metrics["clean_accuracy"].value == 1


def test_gradients_that_are_zero_everywhere_are_no_error(images):
    """Quantised by hand: gradients exist and say nothing, which sanity.gradients reports and loading does not."""
    bench = bench_of(Rounding().eval())
    assert Capability.GRADIENTS in bench.model.capabilities


def test_network_that_cannot_be_copied_is_left_as_it_is(images):
    class Unique(Net):
        def __deepcopy__(self, memo):
            raise TypeError("there can be only one")

    net = Unique().eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    bench = bench_of(net)
    assert Capability.GRADIENTS in bench.model.capabilities
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_exception_inside_a_check_leaves_the_network_as_it_was(images, monkeypatch):
    from auditkit_plugins.pgd import PGD

    def fail(*_):
        raise RuntimeError("inside the attack")

    monkeypatch.setattr(PGD, "step", fail)
    net = network().train()
    with contextlib.suppress(Exception):
        result = audit(net, (images, torch.zeros(20, dtype=torch.int64)), checks=["noise.pgd"]).result
        assert result.checks[0].status in ("failed", "done")
    assert all(module.training for module in net.modules())


def test_workers_need_files(images):
    with pytest.raises(UsageError, match="worker processes need a model and data given by path"):
        audit(network(), (images, torch.zeros(20, dtype=torch.int64)), checks=["noise.uniform"], workers=1)
