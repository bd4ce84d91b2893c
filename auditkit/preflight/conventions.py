"""The ways in which image networks are usually fed, as candidates beside the one configured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from auditkit.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from auditkit.preflight.options import changed_aspects, option_line

__all__ = ["Layout", "candidates"]

Layout = Literal["nchw", "nhwc"]

_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
_FLATTEST = 1e-3
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_HALF = (0.5,)
_MNIST = ((0.1307,), (0.3081,))


@dataclass(frozen=True)
class _Normalisation:
    """Mean and std a channel for images in [0, 1]; no std: the mean is only subtracted."""

    mean: tuple[float, ...]
    std: tuple[float, ...] | None

    def applied(self, steps: Preprocessing) -> Preprocessing:
        low, high = steps.input_range
        mean = _rounded(low + value * (high - low) for value in self.mean)
        std = None if self.std is None else _rounded(value * (high - low) for value in self.std)
        return replace(steps, mean=mean, std=std)


def candidates(configured: Preprocessing, images: Tensor, layouts: tuple[Layout, ...]) -> tuple[Preprocessing, ...]:
    """Return the ways of feeding that differ in effect, `configured` left out, those with few changes first.

    Args:
        configured: The steps as they are now; `outputs` is kept.
        images: (N, C, H, W) in [0, 1]; their own statistics are one of the normalisations.
        layouts: The layouts to consider.
    """
    channels = images.shape[1]
    ways = sorted(_ways(configured, images, layouts), key=lambda steps: _effort(configured, steps))
    distinct = {_effect(configured, channels): configured}
    for steps in ways:
        distinct.setdefault(_effect(steps, channels), steps)
    return tuple(distinct.values())[1:]


def _effort(configured: Preprocessing, steps: Preprocessing) -> tuple[int, int]:
    """Return how many aspects change, and how many options the steps take."""
    return len(changed_aspects(configured, steps)), option_line(steps).count("--")


def _own_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of images (N, C, H, W)."""
    # Image by image: in double precision all of them would be the largest thing in memory.
    each = [torch.var_mean(image.double().flatten(1), dim=1, correction=0) for image in images]
    within, means = (torch.stack(column) for column in zip(*each, strict=True))
    variance = within.mean(0) + means.var(0, correction=0)
    return _rounded(means.mean(0).tolist()), _rounded(variance.sqrt().tolist())


def _ways(configured: Preprocessing, images: Tensor, layouts: tuple[Layout, ...]) -> Iterator[Preprocessing]:
    normalisations = _normalisations(configured, images)
    orders: tuple[Literal["rgb", "bgr"], ...] = ("rgb", "bgr") if images.shape[1] == 3 else ("rgb",)
    for layout in layouts:
        for order in orders:
            for bounds in dict.fromkeys((configured.input_range, *_RANGES)):
                steps = replace(configured, input_range=bounds, channel_order=order, layout=layout)
                # The numbers as they were typed: they may be meant for this range.
                yield steps
                yield replace(steps, mean=None, std=None)
                yield from (normalisation.applied(steps) for normalisation in normalisations)


def _normalisations(configured: Preprocessing, images: Tensor) -> list[_Normalisation]:
    channels = images.shape[1]
    found: list[_Normalisation] = []
    # What only shifts images is common in 0..255 (Caffe) and around zero.
    if channels == 3:
        found += [_Normalisation(IMAGENET_MEAN, IMAGENET_STD), _Normalisation(IMAGENET_MEAN, None)]
        found.append(_Normalisation(*_CIFAR10))
    else:
        found.append(_Normalisation(*_MNIST))
    found += [_Normalisation(_HALF, _HALF), _Normalisation(_HALF, None)]
    mean, std = _own_statistics(images)
    if min(std) > _FLATTEST:
        found.append(_Normalisation(mean, std))
    return [*found, *_configured_normalisation(configured)]


def _configured_normalisation(steps: Preprocessing) -> Iterator[_Normalisation]:
    low, high = steps.input_range
    if steps.mean is not None:
        mean = tuple((value - low) / (high - low) for value in steps.mean)
        std = None if steps.std is None else tuple(value / (high - low) for value in steps.std)
        yield _Normalisation(mean, std)


def _effect(steps: Preprocessing, channels: int) -> tuple[object, ...]:
    """Return what the steps do to an image: scale and shift of each channel, channel order, layout."""
    low, high = steps.input_range
    mean = _spread(steps.mean or (0.0,), channels)
    std = _spread(steps.std or (1.0,), channels)
    scales = tuple(round((high - low) / by, 3) for by in std)
    shifts = tuple(round((low - minus) / by, 3) for minus, by in zip(mean, std, strict=True))
    return scales, shifts, steps.channel_order, steps.layout


def _spread(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values


def _rounded(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)
