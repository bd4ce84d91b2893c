"""Networks for tests of explanations: one function spelled in several ways, vision transformers, file formats."""

from __future__ import annotations

import io
import warnings

import onnx
import torch
from torch import nn
from torch.nn import functional

from auditkit.models.onnx_files import load_onnx_file
from auditkit.models.preprocess import Preprocessing
from auditkit.models.torch_files import load_module
from auditkit.models.tryout import try_out

CPU = torch.device("cpu")
RECTIFIERS = (
    "modules",
    "in place",
    "shared",
    "shared in place",
    "functional",
    "functional in place",
    "torch",
    "method",
)


def fill(network, seed=0):
    """Fill all weights with normal numbers whose size keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            numbers = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.dim() in (2, 4) else 4
            is_norm = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.2 * numbers if is_norm else numbers * (2 / fan_in) ** 0.5)
    return network.eval()


class Rectified(nn.Module):
    """Three convolutions with a skip connection; `how` says in which way its three ReLUs are written."""

    def __init__(self, how="modules", classes=5, channels=3, end=None):
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 12, 3, padding=1, stride=2)
        self.third = nn.Conv2d(12, 12, 3, padding=1)
        self.head = nn.Linear(12, classes)
        self.how = how
        self.end = end
        in_place = how.endswith("in place")
        one = nn.ReLU(inplace=in_place)
        if how in ("modules", "in place"):
            self.relu1, self.relu2, self.relu3 = one, nn.ReLU(inplace=in_place), nn.ReLU(inplace=in_place)
        elif how.startswith("shared"):
            self.relu = one

    def rectify(self, values, number: int):
        if self.how in ("modules", "in place"):
            return (self.relu1, self.relu2, self.relu3)[number](values)
        if self.how.startswith("shared"):
            return self.relu(values)
        if self.how.startswith("functional"):
            return functional.relu(values, inplace=self.how.endswith("in place"))
        return torch.relu(values)

    def scores(self, images):
        values = self.rectify(self.first(images), 0)
        skipped = self.rectify(self.second(values), 1)
        values = self.rectify(self.third(skipped) + skipped, 2)
        return self.head(values.mean((2, 3)))

    def forward(self, images):
        scores = self.scores(images)
        if self.end is None:
            return scores
        return scores.log_softmax(1) if self.end == "log" else scores.softmax(1)


class Scriptable(nn.Module):
    """The same function as `Rectified`, without what TorchScript cannot read."""

    def __init__(self, network, softmax: bool = False):
        super().__init__()
        self.first, self.second, self.third, self.head = network.first, network.second, network.third, network.head
        self.relu = nn.ReLU(inplace=True)
        self.softmax = softmax

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = self.relu(self.first(images))
        skipped = self.relu(self.second(values))
        values = self.relu(self.third(skipped) + skipped)
        scores = self.head(values.mean((2, 3)))
        return scores.softmax(1) if self.softmax else scores


class TinyViT(nn.Module):
    """A vision transformer of two blocks. The patches of the last attention's input pass through `grid` as a map."""

    def __init__(self, size=(16, 16), patch=4, width=16, classes=5, pooled=False):
        super().__init__()
        self.rows, self.columns = size[0] // patch, size[1] // patch
        self.pooled = pooled
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.place = nn.Parameter(torch.zeros(1, self.rows * self.columns + (not pooled), width))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.norm1, self.norm2, self.norm3, self.norm4, self.norm = (nn.LayerNorm(width) for _ in range(5))
        self.attend1, self.attend2 = (nn.MultiheadAttention(width, 2, batch_first=True) for _ in range(2))
        self.mlp1, self.mlp2 = (nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)) for _ in range(2))
        self.grid = nn.Identity()
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        if not self.pooled:
            tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], 1)
        tokens = tokens + self.place
        tokens = tokens + self.attend1(*[self.norm1(tokens)] * 3, need_weights=False)[0]
        tokens = tokens + self.mlp1(self.norm2(tokens))
        given = self.norm3(tokens) if self.pooled else self.watched(self.norm3(tokens))
        tokens = tokens + self.attend2(given, given, given, need_weights=False)[0]
        tokens = tokens + self.mlp2(self.norm4(tokens))
        tokens = self.norm(tokens)
        return self.head(self.watched(tokens).mean(1) if self.pooled else tokens[:, 0])

    def watched(self, tokens):
        leading = tokens.shape[1] - self.rows * self.columns
        grid = self.grid(tokens[:, leading:].transpose(1, 2).unflatten(2, (self.rows, self.columns)))
        return torch.cat([tokens[:, :leading], grid.flatten(2).transpose(1, 2)], 1)


def loaded(network, images, **steps):
    """Return the model that an audit makes of a torch network."""
    return try_out(load_module(network, CPU), Preprocessing(**steps), images, CPU, 128)


def exported(network, images, folder, opset=17, **steps):
    """Return the model that an audit makes of the network's ONNX graph."""
    path = folder / "network.onnx"
    path.write_bytes(graph_of(network, images, opset).SerializeToString())
    return try_out(load_onnx_file(path, CPU), Preprocessing(**steps), images, CPU, 128)


def graph_of(network, images, opset=17):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (images[:2],),
            buffer,
            input_names=["image"],
            dynamic_axes={"image": {0: "n"}},
            opset_version=opset,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def scripted(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(network)


def traced(network, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(network, images)


def program(network, images):
    """Return the network as an exported program that takes any number of images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("n")},)).module()
