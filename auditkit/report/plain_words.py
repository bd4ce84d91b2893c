"""The result in a few plain sentences, for a reader who decides and does not measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from auditkit.report.phrases import KINDS, NOISE, PIXELS, STICKERS, noise_words, nothing_known, unknown
from auditkit.report.plain_words_of_detectors import words_of_detector
from auditkit.report.text import plural, value_text
from auditkit.report.worst import Worst, worst_cases
from auditkit.result import CheckRecord, Result

__all__ = ["plain_words"]


def plain_words(result: Result) -> tuple[str, ...]:
    """Return three to six sentences: what was tested, what attacks do, what helps, what is in doubt, what is unknown.

    Every number in them is one of the result's. They compare only where the intervals lie apart.
    """
    done = [check for check in result.checks if check.status == "done"]
    if not done:
        return (nothing_known(result),)
    if result.model.task == "detection":
        return words_of_detector(result, done)
    kinds, told = _lowest_of_each_kind(result), _of_the_first_norm(result)
    sentences = (
        _ordinary(result, done),
        _by_size(told),
        _by_kind(told, kinds),
        *_help(done),
        _unknown(result, done, kinds),
    )
    return tuple(sentence for sentence in sentences if sentence)


def _ordinary(result: Result, done: Sequence[CheckRecord]) -> str:
    """Say what was tested, and how well it does on images as they are."""
    tested = f"{result.model.name}, a classifier of {result.model.classes} classes"
    clean = next((check.metrics["clean_accuracy"] for check in done if "clean_accuracy" in check.metrics), None)
    if clean is None:
        return f"{tested}, was put to {plural(len(done), 'check')} on {plural(result.samples.n, 'image')}."
    return (
        f"{tested}, was put to {plural(len(done), 'check')}: of {plural(clean.n, 'image')} as they are, "
        f"it gets {value_text(clean)} right."
    )


def _by_size(cases: Sequence[Worst]) -> str:
    """Say what the smallest and the largest changes of one kind do."""
    if not cases:
        return ""
    first, last = cases[0], cases[-1]
    text = f"With {_change(first)}, searched for each image, {_left(first)} stay right"
    return f"{text}; with {_change(last)}, {_left(last)}." if first is not last else f"{text}."


def _by_kind(told: Sequence[Worst], kinds: Sequence[Worst]) -> str:
    """Say what the kinds do that were not told yet, and which of all leaves least."""
    others = [case for case in kinds if told and KINDS[case.norm] != KINDS[told[0].norm]]
    if not others:
        return ""
    first, *more = others
    each = ", ".join(
        [f"{_left(first)} stay right with {_change(first)}", *(f"{_left(case)} with {_change(case)}" for case in more)]
    )
    worst, second = (KINDS[case.norm] for case in kinds[:2])
    if kinds[0].estimate.high < kinds[1].estimate.low:
        outcome = f"within these budgets, {worst} {'does' if worst == NOISE else 'do'} most harm"
    else:
        outcome = f"whether {worst} or {second} harm more, so few images cannot tell"
    return f"{each}: {outcome}."


def _help(done: Sequence[CheckRecord]) -> Iterator[str]:
    """Say how much is noticed, and what bounded activations change, of the first check that looked at each."""
    yield next((text for check in done if (text := _noticed(check))), "")
    yield next((text for check in done if (text := _bounded(check))), "")


def _noticed(check: CheckRecord) -> str:
    noticed = [estimate for name, estimate in check.metrics.items() if name.endswith("_noticed")]
    if not noticed:
        return ""
    least = value_text(min(noticed, key=lambda estimate: estimate.value))
    most = value_text(max(noticed, key=lambda estimate: estimate.value))
    share = least if least == most else f"{least} to {most}, depending on their kind,"
    alarms = check.metrics.get("false_alarms")
    price = f", at the price of a false alarm on {value_text(alarms)} of the clean images" if alarms is not None else ""
    return f"Of the attacks that fool it, {share} are noticed ({check.key}){price}."


def _bounded(check: CheckRecord) -> str:
    if not {"robust_accuracy", "bounded_robust_accuracy"} <= check.metrics.keys():
        return ""
    plain, bounded = check.metrics["robust_accuracy"], check.metrics["bounded_robust_accuracy"]
    if bounded.low > plain.high:
        outcome = "help"
    elif bounded.high < plain.low:
        outcome = "do harm"
    else:
        outcome = "make no clear difference"
    text = (
        f"Bounded activations {outcome}: under attack {value_text(bounded)} stay right, "
        f"and {value_text(plain)} without them ({check.key})"
    )
    if {"clean_accuracy", "bounded_clean_accuracy"} <= check.metrics.keys():
        clean, bounded_clean = check.metrics["clean_accuracy"], check.metrics["bounded_clean_accuracy"]
        text += f"; of clean images {value_text(bounded_clean)}, and {value_text(clean)} without"
    return f"{text}."


def _unknown(result: Result, done: Sequence[CheckRecord], kinds: Sequence[Worst]) -> str:
    """Say what is in doubt, and what was not tested; something always was not."""
    tried = {KINDS[case.norm] for case in kinds}
    return unknown(result, done, [f"attacks with {kind}" for kind in (NOISE, PIXELS, STICKERS) if kind not in tried])


def _of_the_first_norm(result: Result) -> list[Worst]:
    """Return the cases of the norm that is the hardest to see, smallest budget first."""
    cases = worst_cases(result)
    norm = next((norm for norm in KINDS if any(case.norm == norm for case in cases)), None)
    return [case for case in cases if case.norm == norm]


def _lowest_of_each_kind(result: Result) -> list[Worst]:
    """Return the case that leaves least of each kind of change, the worst kind first."""
    lowest: dict[str, Worst] = {}
    for case in worst_cases(result):
        kind = KINDS.get(case.norm)
        if kind is not None and (kind not in lowest or case.estimate.value < lowest[kind].estimate.value):
            lowest[kind] = case
    return sorted(lowest.values(), key=lambda case: case.estimate.value)


def _change(case: Worst) -> str:
    """Return a change with its budget, for readers who know no norms."""
    match KINDS[case.norm]:
        case "changed pixels":
            return f"{case.budget} changed pixel{'' if case.budget == '1' else 's'}"
        case "stickers":
            return f"stickers on {case.words}"
        case _:
            return noise_words(case.norm, case.budget)


def _left(case: Worst) -> str:
    return value_text(case.estimate)
