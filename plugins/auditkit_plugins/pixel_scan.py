"""One pixel by scanning: extreme colours on a coarse lattice, then wherever the neighbourhood promises most."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from auditkit import Origin, Queries, Streams
from auditkit_plugins.pixel_refinement import Refinement
from auditkit_plugins.pixels import corner_colours, with_pixel

__all__ = ["Scan", "ScanState"]

# Candidates a step.
_CHUNK = 16
# How many of them refine colours: before the first look, by when nearly all images that fall have done so, and after.
_REFINED, _REFINED_LATER = 2, 8
# How many places the first lattice has, about.
_LATTICE = 64
# After so many queries a row is left whose margin has not fallen to this share of the clean one. Of the first 100
# images that ResNet-20 gets right, 30 fall within 260 queries. One that only a colour between the extremes fools comes
# within 2.5 % in extreme colours, and takes 1092 to 4612 queries (six seeds).
_LOOKS = ((1024, 0.3), (2048, 0.15), (4096, 0.08), (8192, 0.04))


@dataclass(frozen=True)
class ScanState:
    """What each row knows about each pixel in each extreme colour, and in the best colour."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    clean_margin: Tensor
    gains: Tensor
    """float32 (N, K, H, W): by how much each extreme colour lowers the margin; minus infinity where nobody asked."""
    noise: Tensor
    """float32 (N, H, W) in [0, 1): settles which of equally promising places comes first."""
    refinement: Refinement
    step: Tensor
    given_up: Tensor
    rng: Streams


@dataclass(frozen=True)
class Scan:
    """Ask about extreme colours, which are nearly always the worst, at the most promising places first.

    Given enough queries, every pixel is asked about in every extreme colour. Some queries look for a worse colour at
    the best places, and all do once every extreme colour is known.
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
        return ScanState(
            images=origin.images,
            clean=origin.images,
            labels=origin.labels,
            clean_margin=_margin(origin.logits, origin.labels),
            gains=origin.images.new_full((n, 2**channels, height, width), -torch.inf),
            noise=origin.rng.uniform(0, (height, width)),
            refinement=Refinement.of(origin.images),
            step=torch.zeros_like(origin.labels),
            given_up=torch.zeros_like(origin.warm),
            rng=origin.rng,
        )

    def step(self, model: Queries, state: ScanState) -> ScanState:
        """Ask about the most promising candidates."""
        codes, unknown = _most_promising(state)
        scanned = unknown & (torch.arange(_CHUNK, device=codes.device) < _CHUNK - _refined(state).unsqueeze(1))
        size = state.clean[0, 0].numel()
        corners = corner_colours(state.clean)[torch.div(codes, size, rounding_mode="floor")]
        places = torch.where(scanned, codes % size, state.refinement.places(_CHUNK))
        inside = state.refinement.tried(places, state.rng, state.step + 1)
        colours = torch.where(scanned.unsqueeze(2), corners, inside)
        asked, marks = with_pixel(state.clean, _candidates(places, colours, state.clean))
        logits = model.logits(asked.flatten(0, 1), marks.flatten(0, 1))
        margin = _margin(logits, state.labels.repeat_interleave(_CHUNK)).view(-1, _CHUNK)
        gains = state.clean_margin.unsqueeze(1) - margin
        refinement = state.refinement.learned(places, colours, gains, ~scanned)
        best, colour = refinement.best()
        moved = replace(
            state,
            images=with_pixel(state.clean, _candidates(best, colour, state.clean))[0].squeeze(1),
            gains=_noted(state.gains, codes, gains, scanned),
            refinement=refinement,
            step=state.step + 1,
        )
        return replace(moved, given_up=_hopeless(moved)) if self.give_up else moved


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,): the logit of the true class less the largest other."""
    at = labels.unsqueeze(1)
    return logits.gather(1, at).squeeze(1) - logits.scatter(1, at, -torch.inf).amax(1)


def _refined(state: ScanState) -> Tensor:
    """Return int64 (N,): how many candidates of this step shall refine colours."""
    early = state.step * _CHUNK < _LOOKS[0][0]
    return torch.where(early, _REFINED, _REFINED_LATER)


def _most_promising(state: ScanState) -> tuple[Tensor, Tensor]:
    """Return codes (N, P) into `gains`, the most promising first, and which of them nobody asked about yet."""
    unknown = state.gains == -torch.inf
    promise = torch.where(unknown, _promise(state), -torch.inf).flatten(1)
    codes = promise.argsort(dim=1, descending=True, stable=True)[:, :_CHUNK]
    unknown = unknown.flatten(1).gather(1, codes)
    missing = _CHUNK - codes.shape[1]
    return functional.pad(codes, (0, missing)), functional.pad(unknown, (0, missing))


def _noted(known: Tensor, codes: Tensor, gains: Tensor, scanned: Tensor) -> Tensor:
    """Return the gains (N, K, H, W) known after some candidates were asked about, of which some were `scanned`."""
    new = torch.where(scanned, gains, -torch.inf)
    return known.flatten(1).scatter_reduce(1, codes, new, "amax").view_as(known)


def _candidates(places: Tensor, colours: Tensor, images: Tensor) -> Tensor:
    """Return (N, P, 2 + C): the middle of each place as shares of the image, and its colour."""
    height, width = images.shape[2:]
    row, column = torch.div(places, width, rounding_mode="floor"), places % width
    return torch.cat([torch.stack([(row + 0.5) / height, (column + 0.5) / width], 2), colours], 2)


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
    gain = state.refinement.gain.flatten(1).amax(1)
    spent, left = state.step * _CHUNK, 1 - gain / state.clean_margin.clamp_min(1e-20)
    hopeless = torch.zeros_like(state.given_up)
    for queries, share in _LOOKS:
        hopeless = hopeless | ((spent >= queries) & (left > share))
    return hopeless
