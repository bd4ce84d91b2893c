"""Taps: every call of an activation function is seen, under its name, as it was, and nothing stays behind."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from broken_networks import base_network
from onnx import helper
from onnx_graphs import model_of, numbers
from rectified_networks import NETWORKS, Branching, Gelu, rectified
from torch import nn
from torch.nn import functional

from auditkit.errors import ExecutionError
from auditkit.models.base import Batching, Capability, Differentiable
from auditkit.models.loaded import digest_state
from auditkit.models.preprocess import Preprocessed, Preprocessing
from auditkit.models.taps import find_sites, tap_activations
from auditkit.models.twin import differentiable_twin
from auditkit.testing import LinearModel, toy_model

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def differentiable(network, **more):
    return Differentiable(Preprocessed(network.eval().requires_grad_(False), Preprocessing()), "float32", **more)


def tapped(model, images=IMAGES, sites=None):
    """Return [(name, activations of the images)] of one pass."""
    sites = find_sites(model, images) if sites is None else sites
    seen = []
    tap_activations(model, sites, images, lambda at, values, rows: seen.append((sites[at].name, values[:rows].clone())))
    return seen


class Listed(nn.Module):
    """A convolution, then a function."""

    def __init__(self, function, body=None):
        super().__init__()
        self.body = body if body is not None else nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, images):
        return self.function(self.body(images)).flatten(1)[:, :3]


@pytest.mark.parametrize("kind", [*NETWORKS, Gelu], ids=lambda kind: kind.__name__)
def test_every_call_is_a_site_under_its_name(kind):
    expected = NETWORKS.get(kind, [("layer.gelu", "gelu", 12)])
    sites = find_sites(differentiable(rectified(kind)), IMAGES)
    assert [(site.name, site.function, site.channels) for site in sites] == expected


FUNCTIONS = {
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "relu6 in place": nn.ReLU6(inplace=True),
    "leaky_relu": nn.LeakyReLU(0.1),
    "gelu": nn.GELU(),
    "gelu of tanh": nn.GELU("tanh"),
    "silu": nn.SiLU(),
    "silu in place": nn.SiLU(inplace=True),
    "hardswish": nn.Hardswish(),
    "elu": nn.ELU(),
    "elu of selu": nn.SELU(),
    "celu": nn.CELU(),
    "mish": nn.Mish(),
    "sigmoid": nn.Sigmoid(),
    "hardsigmoid": nn.Hardsigmoid(),
    "tanh": nn.Tanh(),
    "hardtanh": nn.Hardtanh(),
    "softplus": nn.Softplus(),
    "prelu": nn.PReLU(4),
    "rrelu": nn.RReLU(),
    "threshold": nn.Threshold(0.1, 0.0),
    "clamp": lambda x: x.clamp(0, 1),
    "clamp in place": lambda x: x.clamp_(min=0),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_every_function_is_tapped_with_what_it_returns(name):
    function = FUNCTIONS[name]
    network = Listed(function)
    model = differentiable(network)
    (site,) = find_sites(model, IMAGES)
    with torch.no_grad():
        wanted = function(network.body(IMAGES))
    ((_, got),) = tapped(model)
    assert site.function == name.partition(" ")[0]
    assert torch.equal(got, wanted)
    assert site.shape == tuple(wanted.shape[1:])
    assert site.negative or (wanted >= 0).all()


@pytest.mark.parametrize("name", ["relu", "relu6", "sigmoid", "softplus", "hardsigmoid", "threshold", "clamp"])
def test_functions_without_values_below_zero_are_known(name):
    assert not find_sites(differentiable(Listed(FUNCTIONS[name])), IMAGES)[0].negative


SPELLED_OUT = {
    "gelu": (lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), functional.gelu),
    "gelu, halved last": (lambda x: x * (torch.erf(x / 2**0.5) + 1) * 0.5, functional.gelu),
    "gelu of tanh": (
        lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3))),
        lambda x: functional.gelu(x, approximate="tanh"),
    ),
    "silu": (lambda x: x * torch.sigmoid(x), functional.silu),
    "hardswish": (lambda x: x * functional.hardsigmoid(x), functional.hardswish),
    "hardswish of clamp": (lambda x: x * (x + 3).clamp(0, 6) / 6, functional.hardswish),
}


@pytest.mark.parametrize("name", list(SPELLED_OUT))
def test_a_function_that_is_spelled_out_is_one_site_and_its_gate_is_none(name):
    spelled, function = SPELLED_OUT[name]
    network = Listed(spelled)
    ((_, got),) = tapped(differentiable(network))
    (site,) = find_sites(differentiable(network), IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(got, function(network.body(IMAGES)), atol=1e-5, rtol=1e-4)
    assert site.function == name.partition(" ")[0].rstrip(",")


def test_a_gate_over_channels_stays_a_site_of_its_own():
    class Squeeze(nn.Module):
        def __init__(self):
            super().__init__()
            self.weigh = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return x * torch.sigmoid(self.weigh(x.mean((2, 3), keepdim=True)))

    (site,) = find_sites(differentiable(Listed(Squeeze())), IMAGES)
    assert (site.function, site.shape) == ("sigmoid", (4, 1, 1))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.max_pool2d(x, 2),
        lambda x: x.softmax(1),
        lambda x: x.clamp(-1, 1),
        lambda x: torch.erf(x),
        lambda x: x.abs(),
    ],
    ids=["max pool", "softmax", "clamp to -1", "erf", "abs"],
)
def test_what_is_no_activation_is_no_site(function):
    assert find_sites(differentiable(Listed(function)), IMAGES) == ()


def test_a_clamp_of_the_image_itself_is_no_site():
    network = Listed(lambda x: x, nn.Sequential(nn.Identity()))
    clamping = Listed(lambda x: x.clamp(min=0), nn.Identity())
    assert find_sites(differentiable(network), IMAGES) == find_sites(differentiable(clamping), IMAGES) == ()


def scripted(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(network), buffer)
        buffer.seek(0)
        return torch.jit.load(buffer)


def traced(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(network, IMAGES)


def exported(network):
    free = ({0: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network, (IMAGES,), dynamic_shapes=free).module()


def compiled(network):
    return torch.compile(network, backend="eager")


@pytest.mark.parametrize("form", [scripted, traced, exported, compiled], ids=lambda form: form.__name__)
def test_other_forms_of_a_network_have_the_same_activations(form):
    network = base_network()
    wanted = tapped(differentiable(network))
    other = form(network)
    model = Differentiable(Preprocessed(other, Preprocessing()), "float32")
    got = tapped(model)
    assert [name for name, _ in wanted] == ["1"]
    assert len(got) == 1
    torch.testing.assert_close(got[0][1], wanted[0][1])
    assert got[0][0] in ("1", "0 > relu")
    for _ in range(3):
        assert len(tapped(model)) == 1, "an optimised script hides its activations"


def twin_of(nodes, constants, shape=(None, 3, 8, 8)):
    return differentiable(differentiable_twin(model_of(nodes, constants, shape, (None, None))))


def test_an_onnx_twin_names_its_nodes():
    constants = {"w": numbers(4, 3, 3, 3), "c1": numbers(1) * 0 + 1, "c2": numbers(1) * 0 + 0.5}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="block/relu"),
        helper.make_node("Erf", ["r"], ["e"], name="block/erf"),
        helper.make_node("Add", ["e", "c1"], ["a"], name="add"),
        helper.make_node("Mul", ["r", "a"], ["m"], name="mul"),
        helper.make_node("Mul", ["m", "c2"], ["g"], name="half"),
        helper.make_node("LeakyRelu", ["g"], ["l"], name="block/leaky"),
        helper.make_node("Flatten", ["l"], ["scores"], name="flatten"),
    ]
    sites = find_sites(twin_of(nodes, constants), IMAGES)
    assert [(site.name, site.function) for site in sites] == [
        ("block/relu", "relu"),
        ("block/erf", "gelu"),
        ("block/leaky", "leaky_relu"),
    ]


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
def test_a_quantised_network_has_the_sites_of_the_one_it_was_made_from():
    import numpy as np
    import onnx

    with np.load(CIFAR / "images_600.npz") as stored:
        images = torch.from_numpy(stored["x"][:8].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    plain, quantised = (
        differentiable(differentiable_twin(onnx.load(CIFAR / f"{name}.onnx"))) for name in ("resnet20", "resnet20_int8")
    )
    wanted, got = tapped(plain, images), tapped(quantised, images)
    assert len(wanted) == 19
    assert [name for name, _ in got] == [name for name, _ in wanted]
    for (name, one), (_, other) in zip(wanted, got, strict=True):
        assert (one - other).abs().mean() < 0.1 * one.abs().mean(), name


class Windows(nn.Module):
    """Rows along the batch: four windows an image, and tokens before images."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(48, 6), nn.Linear(6, 5)
        self.table = nn.Parameter(torch.rand(7, 6))

    def forward(self, images):
        windows = images.reshape(len(images) * 4, 48)
        features = self.first(windows).relu()
        tokens = self.second(features).reshape(len(images), 4, 5).transpose(0, 1)
        positions = self.second(self.table).tanh()
        return (tokens.contiguous().relu() + positions.mean()).mean(0)


def test_rows_of_windows_and_images_behind_tokens_are_put_in_order():
    network = Windows()
    model = differentiable(network)
    sites = find_sites(model, IMAGES)
    assert [site.function for site in sites] == ["relu", "relu"], "a table of positions is no activation of the image"
    assert [site.shape for site in sites] == [(4, 6), (4, 5)]
    with torch.no_grad():
        first = network.first(IMAGES.reshape(-1, 48)).relu().reshape(5, 4, 6)
    (_, one), (_, other) = tapped(model)
    torch.testing.assert_close(one, first)
    torch.testing.assert_close(other, network.second(first).relu().detach())


def test_the_batch_is_filled_up_and_the_rows_are_counted():
    model = differentiable(base_network(), batch=32)
    sites, seen = find_sites(model, IMAGES), []
    images = IMAGES.repeat(8, 1, 1, 1)
    tap_activations(model, sites, images, lambda at, values, rows: seen.append((len(values), rows)))
    assert seen == [(32, 32), (16, 8)]


def test_a_network_that_wants_one_batch_size_gets_it():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = base_network()

        def forward(self, images):
            assert len(images) == 4
            return self.body(images)

    model = differentiable(Picky(), batching=Batching(minimum=4, fixed=4))
    seen = []
    tap_activations(model, find_sites(model, IMAGES), IMAGES, lambda at, values, rows: seen.append((len(values), rows)))
    assert seen == [(4, 4), (4, 1)]


def test_a_network_that_takes_another_path_is_refused_in_words():
    model = differentiable(rectified(Branching))
    sites = find_sites(model, IMAGES)
    assert len(tapped(model, IMAGES, sites)) == 2
    with torch.no_grad():
        for parameter in (*model.network.network.first.parameters(), *model.network.network.norm.parameters()):
            parameter.zero_()
        model.network.network.norm.running_mean.zero_()
    with pytest.raises(ExecutionError, match="1 instead of 2 calls"):
        tapped(model, IMAGES, sites)


class Explosive(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.armed = base_network(), False

    def forward(self, images):
        scores = self.body(images)
        if self.armed:
            raise RuntimeError("boom")
        return scores


def hooks(network):
    return [
        len(hooks)
        for module in network.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    ]


@pytest.mark.parametrize("fault", ["none", "in the network", "in the tap"])
def test_nothing_stays_on_the_network_or_in_torch(fault):
    network = Explosive()
    model = differentiable(network)
    before, state = digest_state(model.network), dict(network.body[1].__dict__)
    sites = find_sites(model, IMAGES)
    if fault == "in the network":
        network.armed = True
        with pytest.raises(RuntimeError, match="boom"):
            tapped(model, IMAGES, sites)
        with pytest.raises(RuntimeError, match="boom"):
            find_sites(model, IMAGES)
        network.armed = False
    elif fault == "in the tap":
        with pytest.raises(ZeroDivisionError):
            tap_activations(model, sites, IMAGES, lambda at, values, rows: 1 // 0)
    else:
        tapped(model)
    assert not any(hooks(model.network))
    assert digest_state(model.network) == before
    assert dict(network.body[1].__dict__) == state
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()
    assert model.logits(IMAGES).shape == (5, 4)


def test_a_network_that_cannot_be_copied_is_tapped_all_the_same():
    class Uncopyable(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = base_network()

        def __deepcopy__(self, memo):
            raise TypeError("not me")

        def forward(self, images):
            return self.body(images)

    model = differentiable(Uncopyable())
    assert [name for name, _ in tapped(model)] == ["body.0 > relu"]
    assert not any(hooks(model.network))


def test_the_scores_are_not_changed_by_watching():
    network = rectified(next(iter(NETWORKS)))
    model = differentiable(network, batch=8)
    wanted = model.logits(IMAGES)
    tapped(model)
    assert torch.equal(model.logits(IMAGES), wanted)
    assert torch.equal(copy.deepcopy(model).logits(IMAGES), wanted)


def test_a_model_claims_activations_only_where_some_were_tapped():
    model = toy_model(base_network(), IMAGES)
    assert Capability.ACTIVATIONS in model.capabilities
    assert [site.name for site in model.sites] == ["1"]
    without = toy_model(LinearModel(), IMAGES)
    assert Capability.ACTIVATIONS not in without.capabilities
    assert without.no_activations == "it calls no activation function"


def test_a_network_whose_path_depends_on_the_number_of_images_has_no_sites():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = base_network()

        def forward(self, images):
            scores = self.body(images)
            return scores.relu() if len(images) % 2 else scores

    model = toy_model(Counting(), IMAGES)
    assert model.sites == ()
    assert "1 activations for 2 images and 2 for 3" in model.no_activations


def test_watching_does_not_import_the_compiler_of_torch():
    """It takes seconds, of every audit."""
    program = """
import sys
import torch
from auditkit.testing import toy_model
network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 2))
assert toy_model(network, torch.rand(3, 3, 8, 8)).sites
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
