"""The talk's table, tried again: do stickers fool a network less once its activations are bounded?

    python -m benchmarks.seed_experiment [--ways two|forty|both] [--gtsrb FOLDER] [--out FILE.json]

Horváth's talk (2020) states how many attacked traffic signs fool a network with ReLU, and the same network with a
bounded leaky ReLU. Here both are trained from scratch on GTSRB with the same seed, images and schedule, begin with the
same weights, and differ in nothing but their activations. Then plain stickers are sought on each of the two, on
held-out images that both classify correctly, with the same random numbers. The same command prints the same table.

Two-way is the stop sign against one speed limit, forty-way is all 43 classes. The talk states neither its networks nor
its bounds nor its budget; the choices made here are options.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from auditkit import Estimate, audit, exact_mcnemar, proportion
from benchmarks.gtsrb import GTSRB, fit
from benchmarks.sign_pairs import SLOPE, WAYS, Signs, Way, fresh_network, is_correct, settled, signs_for, with_bounds

NETWORKS = ("original", "bounded")
CELLS = ("none", "bounded only", "original only", "both")
SIGNIFICANT = 0.05

_LIGHT, _DARK, _SIDE = 2, 2, 5 / 32
# Where all images fall in the end, the first queries still tell networks apart.
_EARLIER = (1, 10, 100)


@dataclass(frozen=True)
class Attacked:
    """What the attack did to one network, image by image."""

    correct: npt.NDArray[np.bool_]
    """Whether the clean image is classified correctly; the audit's batches may round differently than ours."""
    fooled: npt.NDArray[np.bool_]
    fooled_by_chance: npt.NDArray[np.bool_]
    """By stickers of the same number and size, put anywhere."""
    queries: npt.NDArray[np.float64]
    """Until the success; nan where there was none."""

    def of(self, rows: npt.NDArray[np.bool_]) -> Attacked:
        """Return some of the images."""
        return Attacked(self.correct[rows], self.fooled[rows], self.fooled_by_chance[rows], self.queries[rows])


@dataclass(frozen=True)
class FourCells:
    """How many images fooled none of two networks, only the bounded one, only the original one, or both."""

    counts: tuple[int, int, int, int]

    @classmethod
    def of(cls, original: npt.NDArray[np.bool_], bounded: npt.NDArray[np.bool_]) -> FourCells:
        """Count, given which images (N,) fooled which network."""
        none, bounded_only = int((~original & ~bounded).sum()), int((~original & bounded).sum())
        return cls((none, bounded_only, int((original & ~bounded).sum()), int((original & bounded).sum())))

    @property
    def shares(self) -> tuple[Estimate, ...]:
        """The share of each cell, in the order of `CELLS`; they sum to 1."""
        return tuple(proportion(count, sum(self.counts)) for count in self.counts)

    @property
    def original(self) -> Estimate:
        """The share that fooled the original network."""
        return proportion(self.counts[2] + self.counts[3], sum(self.counts))

    @property
    def bounded(self) -> Estimate:
        """The share that fooled the bounded network."""
        return proportion(self.counts[1] + self.counts[3], sum(self.counts))

    @property
    def p_value(self) -> float:
        """How often chance alone would part the two networks at least so much: McNemar's exact test."""
        return exact_mcnemar(self.counts[2], self.counts[1])

    def verdict(self, talk: tuple[float, float, float, float]) -> str:
        """Say in one sentence whether the talk's claim held, beside its own `CELLS` in percent."""
        wanted = talk[1] + talk[3]
        numbers = (
            f"stickers fool the original network on {percent(self.original)} and the bounded one on "
            f"{percent(self.bounded)} of the images; the talk says {talk[2] + talk[3]:g} % and {wanted:g} %"
        )
        if self.p_value >= SIGNIFICANT:
            return f"The talk's claim did not hold here: no difference beyond chance; {numbers}."
        if self.bounded.value > self.original.value:
            return f"The talk's claim did not hold here: the bounded network is the weaker one; {numbers}."
        if self.bounded.low > wanted / 100:
            return f"Of the talk's claim only the direction held here, not the size; {numbers}."
        return f"The talk's claim held here; {numbers}."


@dataclass(frozen=True)
class Outcome:
    """All that one experiment found; pairs hold the original network's before the bounded one's."""

    way: Way
    learned_from: int
    steps: int
    bounds: tuple[float, ...]
    """What the bounds became, first layer first."""
    clean: tuple[Estimate, Estimate]
    labels: npt.NDArray[np.int64]
    """Of the attacked images."""
    attacked: tuple[Attacked, Attacked]

    @property
    def cells(self) -> FourCells:
        """The table."""
        return FourCells.of(*(one.fooled for one in self.attacked))

    @property
    def by_chance(self) -> tuple[Estimate, Estimate]:
        """The share of the images that stickers put anywhere fool."""
        original, bounded = self.attacked
        return _share(original.fooled_by_chance), _share(bounded.fooled_by_chance)

    def within(self, queries: int) -> tuple[Estimate, Estimate]:
        """The share of the images that fell to so many queries of this search."""
        original, bounded = (one.queries <= queries for one in self.attacked)
        return _share(original), _share(bounded)

    @property
    def by_class(self) -> dict[str, tuple[Estimate, Estimate]]:
        """The share of the images of each class that is named, and of which there are any, that were fooled."""
        original, bounded = self.attacked
        rows = {name: self.labels == label for label, name in enumerate(self.way.names)}
        return {
            name: (_share(original.fooled[at]), _share(bounded.fooled[at])) for name, at in rows.items() if at.any()
        }


def attacked(network: nn.Module, signs: Signs, queries: int, seed: int) -> Attacked:
    """Seek stickers with the ordinary audit; what is drawn for an image depends on the seed and its row alone."""
    options = {"light": _LIGHT, "dark": _DARK, "side": [_SIDE], "queries": queries}
    audited = audit(
        network,
        (signs.images, signs.labels),
        checks=("patch.sticker",),
        options={"patch.sticker": options},
        seed=seed,
        device="cpu",
    )
    column = {name.removeprefix("patch.sticker/"): values for name, values in audited.table.items()}
    correct, fooled, by_chance = (column[name].astype(bool) for name in ("clean_correct", "fooled", "fooled_by_chance"))
    return Attacked(correct, fooled, by_chance, column["steps"])


def both_right(right: Tensor, most: int, seed: int) -> Tensor:
    """Return the rows (K,), in order, that both networks get right (bool (2, N)); at most `most`, drawn by the seed."""
    rows = right.all(0).nonzero().flatten()
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[shuffled[:most]].sort().values


def experiment(way: Way, options: argparse.Namespace) -> Outcome:
    """Train both networks, attack both, and return what came out."""
    learning, held_out = signs_for(way, options.gtsrb)
    epochs = way.epochs if options.epochs is None else options.epochs
    original = fresh_network(len(way.classes), torch.Generator().manual_seed(options.seed))
    pair = (original, with_bounds(original, options.bound, options.lower_slope))
    for name, network in zip(NETWORKS, pair, strict=True):
        with _timed(f"{way.name}: training the {name} network on {len(learning)} images"):
            generator = torch.Generator().manual_seed(options.seed)
            fit(network, learning.images, learning.labels, epochs=epochs, generator=generator, batch=way.batch)
    bounds = settled(pair[1])
    right = torch.stack([is_correct(network, held_out) for network in pair])
    chosen = held_out[both_right(right, options.images, options.seed)]
    results = []
    for name, network in zip(NETWORKS, pair, strict=True):
        with _timed(f"{way.name}: attacking the {name} network on {len(chosen)} images"):
            results.append(attacked(network, chosen, options.queries, options.seed))
    kept = results[0].correct & results[1].correct
    return Outcome(
        way=way,
        learned_from=len(learning),
        steps=epochs * (len(learning) // way.batch),
        bounds=bounds,
        clean=(proportion(int(right[0].sum()), len(held_out)), proportion(int(right[1].sum()), len(held_out))),
        labels=chosen.labels.numpy()[kept],
        attacked=(results[0].of(kept), results[1].of(kept)),
    )


@contextmanager
def _timed(what: str) -> Iterator[None]:
    print(what, flush=True)
    began = time.monotonic()
    yield
    print(f"done in {time.monotonic() - began:.0f} s", flush=True)


def report(outcome: Outcome, queries: int) -> str:
    """Return the table and what belongs to it, as lines for people."""
    way, cells = outcome.way, outcome.cells
    rows = [
        ("", *NETWORKS),
        ("clean accuracy", *map(percent, outcome.clean)),
        ("fooled", percent(cells.original), percent(cells.bounded)),
        *((f"  {name}", *map(percent, pair)) for name, pair in outcome.by_class.items()),
        *((f"  by query {count}", *map(percent, outcome.within(count))) for count in _EARLIER if count < queries),
        ("fooled by chance", *map(percent, outcome.by_chance)),
        ("queries of the fooled", *(_median_queries(one) for one in outcome.attacked)),
        ("", "", ""),
        ("", "here", "the talk"),
    ]
    for name, share, talk in zip(CELLS, cells.shares, way.talk, strict=True):
        rows.append((name, percent(share), f"{talk:g} %"))
    return "\n".join(
        (
            "",
            f"{way.name}: {outcome.learned_from} training images, {outcome.steps} steps of {way.batch}; "
            f"{sum(cells.counts)} attacked images",
            f"attack: {_LIGHT} light and {_DARK} dark stickers, {_SIDE * 32:.0f}/32 of the image a side at most; "
            f"{queries} queries an image and network (the talk's code: about 225000)",
            f"bounds after training: {', '.join(f'{bound:.2f}' for bound in outcome.bounds)}",
            "",
            *(f"{name:24}{left:>28}{right:>28}".rstrip() for name, left, right in rows),
            "",
            f"exact McNemar: original only {cells.counts[2]}, bounded only {cells.counts[1]}, p = {cells.p_value:.3g}",
            f"{cells.verdict(way.talk)} This is one pair of networks: another seed may differ.",
        )
    )


def percent(share: Estimate) -> str:
    """Return a share with its interval."""
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})".replace("%", " %")


def as_json(outcome: Outcome, options: argparse.Namespace) -> dict[str, Any]:
    """Return everything as plain values."""
    cells = outcome.cells
    return {
        "way": outcome.way.name,
        "classes": list(outcome.way.classes),
        "seed": options.seed,
        "training": {"images": outcome.learned_from, "steps": outcome.steps, "batch": outcome.way.batch},
        "bound": {"start": options.bound, "slope": SLOPE, "lower_slope": options.lower_slope, "end": outcome.bounds},
        "attack": {"light": _LIGHT, "dark": _DARK, "side": _SIDE, "queries": options.queries},
        "clean_accuracy": _named(outcome.clean),
        "fooled": _named((cells.original, cells.bounded)),
        "fooled_by_class": {name: _named(pair) for name, pair in outcome.by_class.items()},
        "fooled_by_query": {count: _named(outcome.within(count)) for count in _EARLIER if count < options.queries},
        "fooled_by_chance": _named(outcome.by_chance),
        "cells": {
            name: {"count": count, **share.model_dump(), "talk": talk / 100}
            for name, count, share, talk in zip(CELLS, cells.counts, cells.shares, outcome.way.talk, strict=True)
        },
        "mcnemar_p": cells.p_value,
        "verdict": cells.verdict(outcome.way.talk),
    }


def _named(pair: tuple[Estimate, Estimate]) -> dict[str, Any]:
    return {name: share.model_dump() for name, share in zip(NETWORKS, pair, strict=True)}


def _share(chosen: npt.NDArray[np.bool_]) -> Estimate:
    return proportion(int(chosen.sum()), len(chosen))


def _median_queries(of: Attacked) -> str:
    return f"median {np.median(of.queries[of.fooled]):g}" if of.fooled.any() else "none was fooled"


def main() -> None:
    """Run the experiments, print their tables, and write them where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", choices=["two", "forty", "both"], default="both")
    parser.add_argument("--gtsrb", type=Path, default=GTSRB)
    parser.add_argument("--out", type=Path, help="also write everything to this JSON file")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, of the training and of the attack")
    parser.add_argument("--images", type=int, default=300, help="attack this many at most")
    parser.add_argument("--queries", type=int, default=500, help="for each image and network")
    parser.add_argument("--bound", type=float, default=3.0, help="where the bounds begin")
    parser.add_argument("--lower-slope", type=float, default=SLOPE, help="below zero; 0 as in a ReLU")
    parser.add_argument("--epochs", type=int, help="in place of those of each experiment")
    options = parser.parse_args()
    outcomes = []
    for name in WAYS if options.ways == "both" else (options.ways,):
        outcome = experiment(WAYS[name], options)
        print(report(outcome, options.queries), flush=True)
        outcomes.append(as_json(outcome, options))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(outcomes, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
