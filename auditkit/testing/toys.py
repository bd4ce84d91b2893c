"""Toy models and images, small enough to be worked out by hand."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from auditkit.attack import Attack
from auditkit.models.base import Model
from auditkit.models.preprocess import Preprocessing
from auditkit.models.torch_files import load_module
from auditkit.models.tryout import try_out
from auditkit.objects.detector import Detector
from auditkit.objects.tryout import Reading, try_out_detector
from auditkit.origin import Origin, object_masks
from auditkit.samples import Samples
from auditkit.streams import Streams

__all__ = ["LinearModel", "linear_distance", "toy_detector", "toy_model", "toy_origin", "toy_samples"]

_CPU = torch.device("cpu")
_LOWEST, _HIGHEST = 0.25, 0.75


class LinearModel(nn.Module):
    """A classifier whose logits are W x + b of the flattened image x, so that its smallest attack is a formula.

    W (classes, C * H * W) is standard normal from a generator with this seed; b centres the scores on grey images.
    """

    def __init__(self, classes: int = 3, shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0) -> None:
        super().__init__()
        channels, height, width = shape
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(classes, channels * height * width, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(-0.5 * weight.sum(1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) for images (N, C, H, W)."""
        return nn.functional.linear(images.flatten(1), self.weight, self.bias)


def linear_distance(model: LinearModel, images: Tensor, labels: Tensor, norm: Literal["linf", "l2", "l1"]) -> Tensor:
    """Return float64 (N,): how far each image must move, in this norm, before another class wins.

    min over j of ((w_y - w_j) x + b_y - b_j) / |w_y - w_j|*, with the dual norm |.|*; 0 for an image (N, C, H, W)
    that is misclassified already. The bounds of [0, 1] are not looked at.
    """
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    own_weight, own_bias = weight[labels], bias[labels]
    across = own_weight.unsqueeze(1) - weight
    margin = torch.einsum("nkd,nd->nk", across, images.double().flatten(1)) + own_bias.unsqueeze(1) - bias
    dual = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}[norm]
    away = margin / torch.linalg.vector_norm(across, ord=dual, dim=2)
    nearest: Tensor = away.scatter(1, labels.unsqueeze(1), torch.inf).amin(1)
    return nearest.clamp_min(0)


def toy_samples(
    n: int,
    seed: int = 0,
    shape: tuple[int, int, int] = (3, 8, 8),
    network: nn.Module | None = None,
    wrong_every: int = 8,
) -> Samples:
    """Return n random images with pixels in [0.25, 0.75], so that small changes stay inside [0, 1].

    Labels are what `network` says, but for every `wrong_every`-th, which is off by one; class 0 without a network.
    """
    generator = torch.Generator().manual_seed(seed)
    images = _LOWEST + (_HIGHEST - _LOWEST) * torch.rand(n, *shape, generator=generator)
    labels = torch.zeros(n, dtype=torch.int64)
    if network is not None:
        with torch.no_grad():
            scores = network(images)
        labels = scores.argmax(1)
        labels[wrong_every - 1 :: wrong_every] += 1
        labels %= scores.shape[1]
    return Samples(images, labels, tuple(f"toy{seed}-{row}" for row in range(n)))


def toy_model(network: nn.Module, images: Tensor) -> Model:
    """Return the network as an audit on the CPU would see it, tried on these images (N, C, H, W) in [0, 1].

    The network is put into evaluation mode.
    """
    return try_out(load_module(network.eval(), _CPU), Preprocessing(), images, _CPU, 128)


def toy_detector(network: nn.Module, samples: Samples) -> Detector:
    """Return a detector of objects as an audit on the CPU would see it, tried on these samples.

    The network is put into evaluation mode; it returns one of the forms that need no function to decode them.
    """
    known = max((int(each.classes.max()) + 1 for each in samples.objects or () if len(each)), default=1)
    loaded = load_module(network.eval(), _CPU)
    return try_out_detector(loaded, Preprocessing(), samples.images, _CPU, 128, known, Reading())


def toy_origin(attack: Attack, model: Model, samples: Samples, eps: float, seed: int = 0) -> Origin:
    """Return what the driver would tell `attack` about first searches of all `samples` at this budget.

    `eps` is infinite for an attack that looks for the nearest success.
    """
    return Origin(
        images=samples.images.clone(),
        labels=samples.labels.clone(),
        eps=torch.full((len(samples),), eps),
        restart=torch.zeros_like(samples.labels),
        logits=model.logits(samples.images),
        points=samples.images.clone(),
        masks=object_masks(samples),
        warm=torch.zeros_like(samples.labels, dtype=torch.bool),
        rng=Streams.of(seed, attack.spec.id, samples.ids),
    )
