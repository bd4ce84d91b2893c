"""One pixel by differential evolution: the search of the paper, for many images and candidates at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from auditkit import Origin, Queries, Streams
from auditkit_plugins.pixels import with_pixel

__all__ = ["Evolution", "EvolutionState"]

_FACTOR = 0.5
# The colours that the search starts from: a normal distribution around grey (mean 128, deviation 127 of 255).
_MEAN_COLOUR, _COLOUR_DEVIATION = 128 / 255, 127 / 255
# Candidates that are asked about at once, an image: a divisor of the population, so that memory stays small.
_CHUNK = 50


@dataclass(frozen=True)
class EvolutionState:
    """Two generations of each row: the parents, and what has replaced them so far."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    parents: Tensor
    """float32 (N, P, 2 + C): row and column as shares of the image, and the colour, of each candidate."""
    parents_fitness: Tensor
    """float32 (N, P): the probability of the true class; infinite before it was asked."""
    survivors: Tensor
    fitness: Tensor
    step: Tensor
    rng: Streams


@dataclass(frozen=True)
class Evolution:
    """Differential evolution as Su et al. 2019 describe it: rand/1, no crossover, a child replaces a worse parent."""

    population: int
    generations: int

    @property
    def steps(self) -> int:
        """Every candidate of every generation is asked about once, some at a time."""
        return (self.generations + 1) * self._chunks

    @property
    def chunk(self) -> int:
        """Candidates in one step."""
        return next(size for size in range(min(_CHUNK, self.population), 0, -1) if self.population % size == 0)

    @property
    def _chunks(self) -> int:
        return self.population // self.chunk

    def start(self, origin: Origin) -> EvolutionState:
        """Start at random pixels."""
        n, channels = origin.images.shape[:2]
        places = origin.rng.uniform(0, (self.population, 2))
        colours = _MEAN_COLOUR + _COLOUR_DEVIATION * origin.rng.normal(1, (self.population, channels))
        candidates = torch.cat([places, colours.clamp(0, 1)], 2)
        unknown = candidates.new_full((n, self.population), torch.inf)
        return EvolutionState(
            images=origin.images,
            clean=origin.images,
            labels=origin.labels,
            parents=candidates,
            parents_fitness=unknown,
            survivors=candidates,
            fitness=unknown,
            step=torch.zeros_like(origin.labels),
            rng=origin.rng,
        )

    def step(self, model: Queries, state: EvolutionState) -> EvolutionState:
        """Ask about some children of the current generation, and keep those that are fitter than their parents."""
        generation = torch.div(state.step, self._chunks, rounding_mode="floor")
        first = (state.step % self._chunks) * self.chunk
        at = first.unsqueeze(1) + torch.arange(self.chunk, device=first.device)
        newborn = self._children(state, generation, at)
        children = torch.where((generation == 0).view(-1, 1, 1), _taken(state.parents, at), newborn)
        asked, marks = with_pixel(state.clean, children)
        truth = _true_probability(model.logits(asked.flatten(0, 1), marks.flatten(0, 1)), state.labels, self.chunk)
        before = state.parents_fitness.gather(1, at)
        fitter = truth < before
        kept = torch.where(fitter.unsqueeze(2), children, _taken(state.parents, at))
        survivors = state.survivors.scatter(1, at.unsqueeze(2).expand_as(kept), kept)
        fitness = state.fitness.scatter(1, at, torch.where(fitter, truth, before))
        done = (state.step + 1) % self._chunks == 0
        best = fitness.argmin(1)
        winner = survivors[torch.arange(len(best), device=best.device), best].unsqueeze(1)
        return replace(
            state,
            images=with_pixel(state.clean, winner)[0].squeeze(1),
            survivors=survivors,
            fitness=fitness,
            parents=torch.where(done.view(-1, 1, 1), survivors, state.parents),
            parents_fitness=torch.where(done.unsqueeze(1), fitness, state.parents_fitness),
            step=state.step + 1,
        )

    def _children(self, state: EvolutionState, generation: Tensor, at: Tensor) -> Tensor:
        """Return (N, chunk, 2 + C): one candidate moved by half the difference of two others; all three differ."""
        draws = state.rng.uniform(generation + 2, (self.population, 3))
        draws = draws.gather(1, at.unsqueeze(2).expand(-1, -1, 3))
        sizes = torch.arange(self.population - 1, self.population - 4, -1, device=draws.device)
        choices = (draws * sizes).floor().long()
        taken = at.unsqueeze(2)
        mates = []
        for number in range(3):
            mate = choices[..., number]
            # Skip over what is taken already, smallest first: the choice among the rest stays uniform.
            for other in taken.sort(2).values.unbind(2):
                mate = mate + (mate >= other)
            mates.append(mate)
            taken = torch.cat([taken, mate.unsqueeze(2)], 2)
        base, plus, minus = (_taken(state.parents, mate) for mate in mates)
        return (base + _FACTOR * (plus - minus)).clamp(0, 1)


def _taken(candidates: Tensor, at: Tensor) -> Tensor:
    return candidates.gather(1, at.unsqueeze(2).expand(-1, -1, candidates.shape[2]))


def _true_probability(logits: Tensor, labels: Tensor, each: int) -> Tensor:
    own = logits.log_softmax(1).gather(1, labels.repeat_interleave(each).unsqueeze(1))
    return own.view(len(labels), each)
