"""One pixel by scanning: extreme colours on a coarse lattice, then wherever the neighbourhood promises most."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from auditkit import Origin, Queries, Streams
from auditkit_plugins.pixels import corner_colours, with_pixel

__all__ = ["Scan", "ScanState"]

# Candidates a step; the last of them are the best pixel in colours between the extremes.
_CHUNK, _MIXED = 16, 2
# How many places the first lattice has, about.
_LATTICE = 64
# After so many queries a row is left whose margin has not fallen to this share of the clean one. On ResNet-20 the best
# of 1024 queries came within 11 % of the best of all 8192, and no success of those took more than 160.
_LOOKS = ((1024, 0.3), (2048, 0.15), (4096, 0.08))


@dataclass(frozen=True)
class ScanState:
    """What each row knows about each pixel in each extreme colour."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    clean_margin: Tensor
    gains: Tensor
    """float32 (N, K, H, W): by how much each extreme colour lowers the margin; minus infinity where nobody asked."""
    noise: Tensor
    """float32 (N, H, W) in [0, 1): settles which of equally promising places comes first."""
    gain: Tensor
    """float32 (N,): that of the best pixel."""
    pixel: Tensor
    """float32 (N, 2 + C): the best pixel, its place as shares of the image, and its colour."""
    step: Tensor
    given_up: Tensor
    rng: Streams


@dataclass(frozen=True)
class Scan:
    """Ask about extreme colours, which are nearly always the worst, at the most promising places first.

    Given enough queries, every pixel is asked about in every extreme colour.
    """

    queries: int
    give_up: bool

    @property
    def steps(self) -> int:
        """Some queries a step."""
        return math.ceil(self.queries / _CHUNK)

    def start(self, origin: Origin) -> ScanState:
        """Start knowing nothing."""
        n, channels, height, width = origin.images.shape
        own = origin.logits.gather(1, origin.labels.unsqueeze(1)).squeeze(1)
        others = origin.logits.scatter(1, origin.labels.unsqueeze(1), -torch.inf).amax(1)
        return ScanState(
            images=origin.images,
            clean=origin.images,
            labels=origin.labels,
            clean_margin=own - others,
            gains=origin.images.new_full((n, 2**channels, height, width), -torch.inf),
            noise=origin.rng.uniform(0, (height, width)),
            gain=torch.full_like(origin.eps, -torch.inf),
            pixel=origin.images.new_zeros((n, 2 + channels)),
            step=torch.zeros_like(origin.labels),
            given_up=torch.zeros_like(origin.warm),
            rng=origin.rng,
        )

    def step(self, model: Queries, state: ScanState) -> ScanState:
        """Ask about the most promising candidates."""
        codes, candidates = self._chosen(state)
        mixed = self._mixed(state)
        asked, marks = with_pixel(state.clean, torch.cat([candidates, mixed], 1))
        logits = model.logits(asked.flatten(0, 1), marks.flatten(0, 1))
        labels = state.labels.repeat_interleave(_CHUNK).unsqueeze(1)
        margin = logits.gather(1, labels).squeeze(1) - logits.scatter(1, labels, -torch.inf).amax(1)
        gains = state.clean_margin.unsqueeze(1) - margin.view(len(state.labels), _CHUNK)
        known = state.gains.flatten(1).scatter(1, codes, gains[:, : codes.shape[1]])
        best, at = gains.max(1)
        better = best > state.gain
        everything = torch.cat([candidates, mixed], 1)
        pixel = everything.gather(1, at.view(-1, 1, 1).expand(-1, 1, everything.shape[2])).squeeze(1)
        pixel = torch.where(better.unsqueeze(1), pixel, state.pixel)
        gain = torch.where(better, best, state.gain)
        moved = replace(
            state,
            images=with_pixel(state.clean, pixel.unsqueeze(1))[0].squeeze(1),
            gains=known.view_as(state.gains),
            gain=gain,
            pixel=pixel,
            step=state.step + 1,
        )
        return replace(moved, given_up=_hopeless(moved)) if self.give_up else moved

    def _chosen(self, state: ScanState) -> tuple[Tensor, Tensor]:
        """Return the most promising candidates: codes (N, P) into `gains`, and pixels (N, P, 2 + C)."""
        height, width = state.gains.shape[2:]
        promise = torch.where(state.gains == -torch.inf, _promise(state), -torch.inf)
        codes = promise.flatten(1).argsort(dim=1, descending=True, stable=True)[:, : _CHUNK - _MIXED]
        missing = _CHUNK - _MIXED - codes.shape[1]
        codes = torch.cat([codes, codes[:, :1].expand(-1, missing)], 1)
        place = codes % (height * width)
        row, column = torch.div(place, width, rounding_mode="floor"), place % width
        colour = corner_colours(state.clean)[torch.div(codes, height * width, rounding_mode="floor")]
        places = torch.stack([(row + 0.5) / height, (column + 0.5) / width], 2)
        return codes, torch.cat([places, colour], 2)

    def _mixed(self, state: ScanState) -> Tensor:
        """Return (N, P, 2 + C): the best pixel so far, with some channels of its colour drawn anew."""
        channels = state.clean.shape[1]
        draws = state.rng.uniform(state.step + 1, (_MIXED, 2, channels))
        place = state.pixel[:, :2].unsqueeze(1).expand(-1, _MIXED, -1)
        colour = state.pixel[:, 2:].unsqueeze(1)
        return torch.cat([place, torch.where(draws[:, :, 0] < 0.5, draws[:, :, 1], colour)], 2)


def _promise(state: ScanState) -> Tensor:
    """Return (N, K, H, W): how much is hoped of each candidate, from what is known about its place and around it.

    Before all of the lattice was asked about in black and white, its places come first.
    """
    _, colours, height, width = state.gains.shape
    stride = max(round(math.sqrt(height * width / _LATTICE)), 1)
    known = state.gains.amax(1)
    asked = known != -torch.inf
    lowest = torch.where(asked, known, torch.inf).amin((1, 2), keepdim=True).clamp(max=0)
    known = torch.where(asked, known, lowest)
    hopes, reach = [], 1
    while True:
        hopes.append(functional.max_pool2d(known.unsqueeze(1), 2 * reach + 1, stride=1, padding=reach).squeeze(1))
        if reach >= stride:
            break
        reach = min(2 * reach, stride)
    around = torch.stack(hopes).mean(0) + 1e-3 * state.noise * (hopes[0] - lowest)
    here = torch.where(asked, known, around)
    promise = here.unsqueeze(1).expand(-1, colours, -1, -1).clone()
    # Black and white tell most about a place: the other colours wait until those are known.
    waits = (~asked).unsqueeze(1) & _is_between(colours, state.gains)
    promise = torch.where(waits, promise - 1e-3 * promise.abs() - 1e-3, promise)
    lattice = _on_lattice(height, width, stride, state.gains) & ~_is_between(colours, state.gains)
    return torch.where(lattice, torch.finfo(promise.dtype).max, promise)


def _is_between(colours: int, like: Tensor) -> Tensor:
    """Return bool (1, K, 1, 1): neither black nor white."""
    codes = torch.arange(colours, device=like.device)
    return ((codes > 0) & (codes < colours - 1)).view(1, -1, 1, 1)


def _on_lattice(height: int, width: int, stride: int, like: Tensor) -> Tensor:
    """Return bool (1, 1, H, W): every `stride`-th pixel in both directions."""
    rows = torch.arange(height, device=like.device).view(1, 1, -1, 1) % stride == stride // 2
    columns = torch.arange(width, device=like.device).view(1, 1, 1, -1) % stride == stride // 2
    return rows & columns


def _hopeless(state: ScanState) -> Tensor:
    """Return bool (N,): where the margin is too far from zero for the queries that were spent."""
    spent, left = state.step * _CHUNK, 1 - state.gain / state.clean_margin.clamp_min(1e-20)
    hopeless = torch.zeros_like(state.given_up)
    for queries, share in _LOOKS:
        hopeless = hopeless | ((spent >= queries) & (left > share))
    everything = (state.gains > -torch.inf).flatten(1).all(1)
    return hopeless | everything
