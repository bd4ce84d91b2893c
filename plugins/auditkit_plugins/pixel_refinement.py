"""Colours between the extremes: a random search at each of the most promising places of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit import Streams

__all__ = ["Refinement"]

# So many of the best places of an image are searched, the least tried first.
_PLACES = 16
# The furthest that one try moves a channel away from the best colour of its place.
_REACH = 0.5


@dataclass(frozen=True)
class Refinement:
    """The best colour known at each place of each image, and how often a better one was looked for.

    The place that is best in extreme colours need not be the one that fools in another colour. So several are searched
    in turn, and a colour is kept where it is better than what was known.
    """

    gain: Tensor
    """float32 (N, H, W): by how much the best colour lowers the margin; minus infinity where nobody asked."""
    colour: Tensor
    """float32 (N, C, H, W) in [0, 1]: that colour; the clean one where nobody asked."""
    tries: Tensor
    """int64 (N, H, W)."""

    @staticmethod
    def of(images: Tensor) -> Refinement:
        """Return what is known before the first query."""
        gain = torch.full_like(images[:, 0], -torch.inf)
        return Refinement(gain, images, torch.zeros_like(gain, dtype=torch.int64))

    def best(self) -> tuple[Tensor, Tensor]:
        """Return the best place of each image, int64 (N, 1), and its colour (N, 1, C)."""
        place = self.gain.flatten(1).argmax(1, keepdim=True)
        return place, self._colours(place)

    def places(self, count: int) -> Tensor:
        """Return int64 (N, count): the best places, the least tried of them last; some twice where an image has few."""
        best = self.gain.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :_PLACES]
        order = self.tries.flatten(1).gather(1, best).argsort(dim=1, stable=True)
        turns = torch.arange(count - 1, -1, -1, device=best.device) % best.shape[1]
        return best.gather(1, order)[:, turns]

    def tried(self, places: Tensor, rng: Streams, step: Tensor) -> Tensor:
        """Return colours (N, P, C) to try at `places` (N, P): the best known, some channels of it moved at random."""
        known = self._colours(places)
        chance, move, reach = rng.uniform(step, (places.shape[1], 3, known.shape[2])).unbind(2)
        moves = (chance < 0.5) | (chance == chance.amin(2, keepdim=True))
        # One reach for all channels: near and far tries are then equally many, whatever the number of channels.
        colour = known + moves * _REACH * reach[..., :1] * (2 * move - 1)
        # Folded at black and at white, and not cut off there, where most of the search starts.
        return 1 - (1 - colour.abs()).abs()

    def _colours(self, places: Tensor) -> Tensor:
        channels = self.colour.shape[1]
        return self.colour.flatten(2).gather(2, places.unsqueeze(1).expand(-1, channels, -1)).transpose(1, 2)

    def learned(self, places: Tensor, colours: Tensor, gains: Tensor, searched: Tensor) -> Refinement:
        """Return what is known after queries: `places` (N, P), `colours` (N, P, C), `gains` (N, P).

        `searched`, bool (N, P), says which of them were tries.
        """
        gain, colour, tries = (known.flatten(-2).clone() for known in (self.gain, self.colour, self.tries))
        for number in range(places.shape[1]):
            at, new = places[:, number : number + 1], gains[:, number : number + 1]
            old = gain.gather(1, at)
            better = new > old
            gain.scatter_(1, at, torch.where(better, new, old))
            here = at.unsqueeze(1).expand(-1, colour.shape[1], -1)
            kept = torch.where(better.unsqueeze(2), colours[:, number].unsqueeze(2), colour.gather(2, here))
            colour.scatter_(2, here, kept)
        tries.scatter_add_(1, places, searched.long())
        return Refinement(gain.view_as(self.gain), colour.view_as(self.colour), tries.view_as(self.tries))
