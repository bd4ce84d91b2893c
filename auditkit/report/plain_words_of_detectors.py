"""The result of a detector's audit in a few plain sentences, for a reader who decides and does not measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from auditkit.budgets import parse_budget
from auditkit.report.phrases import KINDS, NOISE, STICKERS, noise_words, unknown
from auditkit.report.tasks import task_words
from auditkit.report.text import plural, value_text
from auditkit.result import CheckRecord, Result
from auditkit.stats import Estimate

__all__ = ["words_of_detector"]

_PRECISION, _VANISHED = "ap50", "vanish_rate"
# What lies where: budgets of two patches need not mean the same.
_ON_OBJECTS, _CORRUPTIONS = "patch.vanish", "noise.corruptions"


@dataclass(frozen=True)
class _Attack:
    """A metric of a check over its budgets, the smallest first."""

    check: CheckRecord
    metric: str
    budgets: tuple[str, ...]

    @property
    def largest(self) -> str:
        return self.budgets[-1]

    def at(self, budget: str) -> Estimate:
        return self.check.metrics[f"{self.metric}@{budget}"]

    def controls(self, budget: str) -> dict[str, Estimate]:
        """Return what harmless patches of the same size do, by what they are called."""
        names = {"noise": f"noise_{self.metric}@{budget}", "a plain patch": f"plain_{self.metric}@{budget}"}
        metrics = self.check.metrics
        return {words: metrics[name] for words, name in names.items() if name in metrics}


def words_of_detector(result: Result, done: Sequence[CheckRecord]) -> tuple[str, ...]:
    """Return two to six sentences: what was tested, what attacks leave, what is in doubt, what is unknown.

    Every number in them is one of the result's. They compare only where the intervals lie apart.
    """
    patch = _worst(_attacks(done, _PRECISION, _in_the_picture))
    vanish = _worst(_attacks(done, _VANISHED, lambda check: check.id == _ON_OBJECTS))
    noise = _worst(_attacks(done, _PRECISION, lambda check: KINDS.get(check.norm or "") == NOISE))
    corrupted = _worst(_attacks(done, _PRECISION, lambda check: check.id == _CORRUPTIONS))
    tried = {
        "patches in the picture": patch,
        "patches on objects": vanish,
        "attacks with noise": noise,
        "corrupted images": corrupted,
    }
    sentences = (
        _ordinary(result, done),
        _patched(patch) if patch is not None else "",
        _vanished(vanish) if vanish is not None else "",
        _noisy(noise) if noise is not None else "",
        _corrupted(corrupted) if corrupted is not None else "",
        unknown(result, done, [words for words, attack in tried.items() if attack is None]),
    )
    return tuple(sentence for sentence in sentences if sentence)


def _in_the_picture(check: CheckRecord) -> bool:
    return check.id == "patch.dpatch" or (KINDS.get(check.norm or "") == STICKERS and check.id != _ON_OBJECTS)


def _attacks(done: Sequence[CheckRecord], metric: str, wanted: Callable[[CheckRecord], bool]) -> Iterator[_Attack]:
    """Yield the wanted checks that have the metric at some budget."""
    for check in filter(wanted, done):
        found = [name.partition("@")[2] for name in check.metrics if name.startswith(f"{metric}@")]
        if found:
            yield _Attack(check, metric, tuple(sorted(found, key=lambda budget: (_size(budget), budget))))


def _worst(attacks: Iterator[_Attack]) -> _Attack | None:
    """Return the attack that does most harm at its largest budget."""

    def harm(attack: _Attack) -> float:
        value = attack.at(attack.largest).value
        return -value if attack.metric == _PRECISION else value

    return max(attacks, key=harm, default=None)


def _ordinary(result: Result, done: Sequence[CheckRecord]) -> str:
    """Say what was tested, and how well it does on images as they are."""
    tested = f"{result.model.name}, a {task_words(result).model} of {result.model.classes} classes"
    put = f"{tested}, was put to {plural(len(done), 'check')}"
    own = [check.metrics for check in done if not any("@" in name for name in check.metrics)]
    clean = _first(own, _PRECISION) or _first([check.metrics for check in done], "clean_ap50")
    if clean is None:
        return f"{put} on {plural(result.samples.n, 'image')}."
    found = _first(own, "found_rate")
    also = f"; it finds {value_text(found)} of {plural(found.n, 'object')}" if found is not None else ""
    return (
        f"{put}: on {plural(clean.n, 'image')} as they are, its average precision at an overlap of one half is "
        f"{value_text(clean)}{also}."
    )


def _first(metrics: Sequence[Mapping[str, Estimate]], name: str) -> Estimate | None:
    return next((each[name] for each in metrics if name in each), None)


def _patched(attack: _Attack) -> str:
    """Say what patches somewhere in the picture leave, and whether it is their pattern that harms."""
    first, *more = dict.fromkeys((attack.budgets[0], attack.largest))
    key = attack.check.key
    text = (
        f"A patch on {_per_cent(first)} of the picture ({key}) leaves an average precision of {_value(attack, first)}"
    )
    text += "".join(f", one on {_per_cent(area)} leaves {_value(attack, area)}" for area in more)
    clean = attack.check.metrics.get("clean_ap50")
    text += f", and none {value_text(clean)}" if clean is not None else ""
    return f"{text}{_beside_controls(attack)}."


def _vanished(attack: _Attack) -> str:
    """Say how many of the objects that were found are so no more, with patches on or beside them."""
    area = attack.largest
    return (
        f"A patch of {_per_cent(area)} of an object's box ({attack.check.key}) makes {_value(attack, area)} of the "
        f"objects vanish that are found without it{_beside_controls(attack)}."
    )


def _noisy(attack: _Attack) -> str:
    norm, first, last = attack.check.norm or "", attack.budgets[0], attack.largest
    text = f"With {noise_words(norm, first)}, searched for each image, average precision is {_value(attack, first)}"
    text += f"; with {noise_words(norm, last)}, {_value(attack, last)}" if first != last else ""
    vanished = attack.check.metrics.get(f"{_VANISHED}@{last}")
    text += f", and {value_text(vanished)} of the objects vanish" if vanished is not None else ""
    return f"{text}."


def _corrupted(attack: _Attack) -> str:
    first, *more = dict.fromkeys((attack.budgets[0], attack.largest))
    text = f"On corrupted images ({attack.check.key}) it is {_value(attack, first)} at severity {first}"
    return text + "".join(f", and {_value(attack, severity)} at severity {severity}" for severity in more) + "."


def _beside_controls(attack: _Attack) -> str:
    """Return what harmless patches of the largest size do, and the outcome beside the most harmful of them."""
    controls = attack.controls(attack.largest)
    if not controls:
        return ""
    told = ", ".join(f"{words} {value_text(estimate)}" for words, estimate in controls.items())
    found = attack.at(attack.largest)
    if attack.metric == _PRECISION:
        strongest = min(controls.values(), key=lambda estimate: estimate.value)
        more, less = found.high < strongest.low, found.low > strongest.high
    else:
        strongest = max(controls.values(), key=lambda estimate: estimate.value)
        more, less = found.low > strongest.high, found.high < strongest.low
    if more:
        outcome = "it is the pattern that harms"
    elif less:
        outcome = "the pattern harms less than that"
    else:
        outcome = "whether the pattern harms more, so few images cannot tell"
    return f"; of the same size, {told}: {outcome}"


def _value(attack: _Attack, budget: str) -> str:
    return value_text(attack.at(budget))


def _per_cent(area: str) -> str:
    size = _size(area)
    return f"{100 * size:.3g} %" if math.isfinite(size) else area


def _size(budget: str) -> float:
    try:
        return parse_budget(budget)
    except ValueError:  # a stored result may hold anything
        return math.inf
