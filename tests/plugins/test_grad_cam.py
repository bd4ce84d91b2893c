"""Grad-CAM: equal to Captum's for every way to write a network, and gone without a trace."""

from __future__ import annotations

from collections import OrderedDict

import captum.attr
import numpy as np
import pytest
import torch
from explained_networks import (
    RECTIFIERS,
    Rectified,
    Scriptable,
    TinyViT,
    exported,
    fill,
    graph_of,
    loaded,
    program,
    scripted,
    traced,
)
from torch import nn

from auditkit import ExecutionError
from auditkit.models.batching import InFixedBatches
from auditkit.models.loaded import digest_state
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins.attribution import find_layer, grad_cam
from auditkit_plugins.attribution.layout import layout_of
from auditkit_plugins.gradcam_map import GradCam

CLASSES = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])


def pictures(*shape, n=8):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(4))


def captums(network, layer, images, classes=CLASSES):
    small = captum.attr.LayerGradCam(network, layer).attribute(images, target=classes, relu_attributions=True)
    return captum.attr.LayerAttribution.interpolate(small, images.shape[2:], "bilinear").squeeze(1).detach()


def agree(maps, wanted):
    scale = float(wanted.max())
    assert scale > 0
    torch.testing.assert_close(maps, wanted, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("shape", [(3, 12, 12), (3, 10, 17), (1, 8, 8)])
@pytest.mark.parametrize("how", RECTIFIERS)
def test_a_map_is_captums_however_the_relus_are_written(how, shape):
    images = pictures(*shape)
    plain = fill(Rectified("modules", channels=shape[0]))
    model = toy_model(fill(Rectified(how, channels=shape[0])), images)
    agree(grad_cam(model.exact, images, CLASSES), captums(plain, plain.relu3, images))


@pytest.mark.parametrize("form", ["script", "trace", "program", "onnx"])
@pytest.mark.parametrize("softmax", [False, True])
def test_a_map_is_captums_in_every_format_before_a_softmax_that_ends_it(form, softmax, tmp_path):
    images = pictures(3, 12, 12)
    plain = fill(Rectified("modules"))
    network = Scriptable(plain, softmax)
    outputs = {"outputs": "probabilities" if softmax else "logits"}
    model = {
        "script": lambda: loaded(scripted(network), images, **outputs),
        "trace": lambda: loaded(traced(network, images), images, **outputs),
        "program": lambda: loaded(program(network, images), images, **outputs),
        "onnx": lambda: exported(network, images, tmp_path, **outputs),
    }[form]()
    assert (model.exact.before_softmax is not None) == softmax
    for _ in range(3):  # a script is optimised after it has run for a while
        agree(grad_cam(model.exact, images, CLASSES), captums(plain, plain.relu3, images))


@pytest.mark.parametrize("name", ["first", "second", "third", "relu2"])
def test_a_layer_can_be_named_and_is_looked_at_before_it_is_changed_in_place(name):
    images = pictures(3, 12, 12)
    network, plain = fill(Rectified("in place", end="softmax")), fill(Rectified("modules"))
    model = loaded(network, images, outputs="probabilities")
    layer = find_layer(model.exact, images, name)
    agree(grad_cam(model.exact, images, CLASSES, layer), captums(plain, plain.get_submodule(name), images))


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    ("form", "size"), [("module", (16, 16)), ("module", (16, 32)), ("program", (12, 12)), ("onnx", (16, 16))]
)
def test_the_tokens_of_a_vision_transformer_are_laid_out_as_a_grid(form, size, pooled, tmp_path):
    images = pictures(3, *size)
    network = fill(TinyViT(size, pooled=pooled))
    model = {
        "module": lambda: loaded(network, images),
        "program": lambda: loaded(program(network, images), images),
        "onnx": lambda: exported(network, images, tmp_path),
    }[form]()
    found = find_layer(model.exact, images)
    assert (found.layout.height, found.layout.width) == (size[0] // 4, size[1] // 4)
    assert found.layout.leading == (0 if pooled else 1)
    agree(grad_cam(model.exact, images, CLASSES), captums(network, network.grid, images))


def test_a_transformer_whose_layer_norms_are_spelled_out_is_mapped_at_the_same_layer(tmp_path):
    """As in ONNX before version 17."""
    images = pictures(3, 16, 16)
    network = fill(TinyViT())
    graph = graph_of(network, images, opset=14)
    assert "LayerNormalization" not in {node.op_type for node in graph.graph.node}
    model = exported(network, images, tmp_path, opset=14)
    agree(grad_cam(model.exact, images, CLASSES), captums(network, network.grid, images))


class ChannelsLast(nn.Module):
    """Ends in a GELU over (N, h, w, C), as ConvNeXt does."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 10, 4, stride=4)
        self.wide = nn.Linear(10, 24)
        self.gelu = nn.GELU()
        self.grid = nn.Identity()
        self.head = nn.Linear(24, 5)

    def forward(self, images):
        values = self.gelu(self.wide(self.patches(images).permute(0, 2, 3, 1)))
        return self.head(self.grid(values.permute(0, 3, 1, 2)).mean((2, 3)))


def test_channels_that_come_last_are_not_taken_for_columns():
    images = pictures(3, 16, 20)
    network = fill(ChannelsLast())
    agree(grad_cam(toy_model(network, images).exact, images, CLASSES), captums(network, network.grid, images))


@pytest.mark.parametrize("size", [1, 3, 4])
def test_a_network_that_is_fed_some_images_at_a_time_is_mapped_too(size):
    images = pictures(3, 12, 12)
    plain = fill(Rectified("modules"))
    model = toy_model(InFixedBatches(fill(Rectified("in place")), size), images)
    agree(grad_cam(model.exact, images, CLASSES), captums(plain, plain.relu3, images))


class _Watched(torch.autograd.Function):
    passed = 0

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        _Watched.passed += 1
        return gradient


class GradientsCounted(Rectified):
    def forward(self, images):
        return super().forward(_Watched.apply(images))


def test_the_gradient_goes_back_to_the_layer_and_no_further():
    images = pictures(3, 12, 12)
    exact = toy_model(fill(GradientsCounted()), images).exact
    found = find_layer(exact, images)
    _Watched.passed = 0
    grad_cam(exact, images, CLASSES, found)
    assert _Watched.passed == 0
    exact.gradient(images, lambda logits: logits.sum(1))
    assert _Watched.passed == 1


def hooks(network):
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()]


@pytest.mark.parametrize("name", [None, "second"])
def test_nothing_is_left_on_the_network_also_after_an_exception(name):
    images = pictures(3, 12, 12)
    network = fill(Rectified("shared in place"))
    exact = toy_model(network, images).exact
    before = digest_state(exact.network), hooks(exact.network)
    found = find_layer(exact, images, name)
    grad_cam(exact, images, CLASSES, found)
    with pytest.raises(RuntimeError):
        grad_cam(exact, images[:, :2], CLASSES, found)
    assert (digest_state(exact.network), hooks(exact.network)) == before
    assert not any(before[1])
    assert not any(hooks(network))
    assert torch.overrides._get_current_function_mode() is None
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


class TokensOf(nn.Module):
    """Makes so many tokens of an image, which have no places."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = nn.Linear(3 * 8 * 8, tokens * 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 5)
        self.count = tokens

    def forward(self, images):
        tokens = self.tokens(images.flatten(1)).view(-1, self.count, 6)
        return self.head(self.norm(tokens).mean(1))


@pytest.mark.parametrize("network", [LinearModel(classes=5), fill(TokensOf(7))])
def test_a_network_without_a_map_is_refused_in_one_line(network):
    samples = toy_samples(5, network=network)
    with pytest.raises(ExecutionError, match=r"needs an activation that lies on the image.*has none$") as raised:
        run_check(GradCam(), toy_model(network, samples.images), samples)
    assert "\n" not in str(raised.value)


def test_a_layer_that_cannot_be_had_is_refused_in_one_line():
    images = pictures(3, 12, 12)
    exact = toy_model(fill(Rectified("modules")), images).exact
    script = loaded(scripted(Scriptable(fill(Rectified("modules")))), images).exact
    cases = [
        (exact, "layer4", "no module 'layer4'; the last that it has: .*relu2, relu3"),
        (exact, "head", r"head returns \(2, 5\)"),
        (script, "third", "inside TorchScript"),
    ]
    for model, name, message in cases:
        with pytest.raises(ExecutionError, match=message) as raised:
            find_layer(model, images, name)
        assert "\n" not in str(raised.value)


def test_a_name_that_fits_several_modules_asks_for_more_of_it():
    def block():
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 3, 3, padding=1), relu=nn.ReLU()))

    images = pictures(3, 8, 8)
    network = OrderedDict(low=block(), high=block(), flat=nn.Flatten(), relu=nn.ReLU(), head=nn.Linear(192, 5))
    exact = toy_model(fill(nn.Sequential(network)), images).exact
    assert find_layer(exact, images, "high.relu").module == "network.high.relu"
    with pytest.raises(ExecutionError, match=r"several modules are called 'conv'; .* such as network\.low\.conv"):
        find_layer(exact, images, "conv")
    with pytest.raises(ExecutionError, match=r"relu returns \(2, 192\)"):
        find_layer(exact, images, "relu")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_map_does_not_depend_on_the_images_beside_it(threads):
    images = pictures(3, 24, 24, n=20)
    exact = toy_model(fill(Rectified("in place")), images).exact
    classes = torch.arange(20) % 5
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        together = grad_cam(exact, images, classes)
        alone = torch.cat([grad_cam(exact, images[row : row + 1], classes[row : row + 1]) for row in range(20)])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together, alone)


def test_the_layout_of_an_activation_follows_the_image():
    assert layout_of((2, 8, 5, 7), (33, 50), None).channels == "first"
    assert layout_of((2, 7, 7, 96), (224, 224), None).channels == "last"
    assert layout_of((2, 8, 8, 8), (32, 32), None).channels == "first"
    assert layout_of((2, 8, 3, 9), (32, 32), None) is None
    assert layout_of((2, 8, 3, 9), (32, 32), "first").width == 9
    assert layout_of((2, 8, 1, 1), (32, 32), "first") is None
    assert layout_of((2, 197, 768), (224, 224), None).leading == 1
    assert layout_of((2, 8, 12), (16, 8), "last") == layout_of((2, 8, 12), (16, 8), "tokens")
    assert (layout_of((2, 8, 12), (16, 8), None).height, layout_of((2, 8, 12), (16, 8), None).width) == (4, 2)
    assert layout_of((2, 1, 12), (16, 16), None) is None
    assert layout_of((2, 17, 1), (16, 16), "tokens") is None
    assert layout_of((2, 7, 7, 96), (224, 224), "tokens") is None


def test_the_check_keeps_the_contract():
    network = fill(Rectified("shared in place"))
    samples = toy_samples(9, seed=1, network=network)
    assert_contract(GradCam, network=network, samples=samples)
    assert_contract(GradCam(layer="second", top=0.3, gallery=2), network=network, samples=samples)
    vit = fill(TinyViT((8, 8)))
    assert_contract(GradCam(), network=vit, samples=toy_samples(9, seed=1, network=vit))


def test_the_check_says_which_layer_it_looked_at_and_what_that_cost():
    network = fill(Rectified("modules"))
    samples = toy_samples(9, seed=1, network=network)
    model = toy_model(network, samples.images)
    findings = run_check(GradCam(), model, samples)
    maps = grad_cam(model.exact, samples.images, network(samples.images).argmax(1))
    np.testing.assert_array_equal(findings.columns["peak"], maps.amax((1, 2)).double().numpy())
    assert findings.forwards.tolist() == [2] * 9
    assert findings.backwards.tolist() == [1] * 9
    assert findings.exhibits[0].caption.endswith("confidence; layer: relu 3")
