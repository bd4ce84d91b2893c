"""Gates: the whole interval counts, and doubt, absence and failure never read as a pass."""

from __future__ import annotations

import datetime
import functools
import re

import numpy as np
import pytest
from scipy import stats

from auditkit import gate as gate_module
from auditkit.errors import ExitCode, UsageError
from auditkit.gate import exit_code, judge, judge_again, overall
from auditkit.report.text import error_rates, verdict_sentence
from auditkit.requirements import Gate, Waiver, parse_gate
from auditkit.result import CheckRecord, FlagRecord, ModelRecord, Result, SamplesRecord, Verdict
from auditkit.stats import Estimate, proportion

PASS, FAIL, INCONCLUSIVE, MISSING = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.MISSING


def between(low, high):
    return Estimate(value=(low + high) / 2, low=low, high=high, n=100, method="Clopper-Pearson")


def check(key="noise.pgd", status="done", reason=None, needs=(), **metrics):
    return CheckRecord(
        key=key,
        id=key,
        version=1,
        title="t",
        why="w",
        distribution="d",
        references=(),
        status=status,
        reason=reason,
        options={},
        needs=needs,
        metrics=metrics,
    )


def result(*checks, flags=()):
    model = ModelRecord(
        name="m",
        format="f",
        digest="0",
        classes=2,
        input="",
        provider="torch",
        gradients="",
        search_copy="",
        preprocessing={},
    )
    samples = SamplesRecord(source="s", n=9, skipped={}, fingerprint="0", shape=(3, 4, 4), class_names=None)
    return Result(
        model=model,
        samples=samples,
        verdict=Verdict.NONE,
        gates=(),
        checks=checks,
        flags=flags,
        notes=(),
        settings={},
        volatile={},
    )


def judged(text, *checks, flags=()):
    (record,) = judge(result(*checks, flags=flags), [parse_gate(text)]).gates
    return record


@pytest.mark.parametrize(
    ("bound", "low", "high", "verdict"),
    [
        (">=", 0.5, 0.6, PASS),
        (">=", 0.51, 0.6, PASS),
        (">=", 0.4, 0.5, INCONCLUSIVE),
        (">=", 0.4, 0.6, INCONCLUSIVE),
        (">=", 0.4, 0.49, FAIL),
        (">", 0.5, 0.6, INCONCLUSIVE),
        (">", 0.51, 0.6, PASS),
        (">", 0.4, 0.6, INCONCLUSIVE),
        (">", 0.4, 0.5, FAIL),
        ("<=", 0.4, 0.5, PASS),
        ("<=", 0.4, 0.6, INCONCLUSIVE),
        ("<=", 0.5, 0.6, INCONCLUSIVE),
        ("<=", 0.51, 0.6, FAIL),
        ("<", 0.4, 0.5, INCONCLUSIVE),
        ("<", 0.4, 0.49, PASS),
        ("<", 0.4, 0.6, INCONCLUSIVE),
        ("<", 0.5, 0.6, FAIL),
    ],
)
def test_only_a_whole_interval_on_one_side_decides(bound, low, high, verdict):
    record = judged(f"noise.pgd/robust_accuracy {bound} 0.5", check(robust_accuracy=between(low, high)))
    assert record.verdict is verdict
    assert record.estimate == between(low, high)


@functools.cache
def share(successes, n):
    return proportion(successes, n)


@pytest.mark.parametrize("n", [10, 50, 200])
@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.5, 0.9])
@pytest.mark.parametrize("bound", [">=", "<=", ">", "<"])
def test_a_model_that_is_just_not_good_enough_passes_by_luck_at_most_once_in_forty(n, threshold, bound, monkeypatch):
    monkeypatch.setattr(gate_module, "images_to_decide", lambda *_: None)
    chance = dict.fromkeys(Verdict, 0.0)
    for successes in range(n + 1):
        record = judged(f"c/m {bound} {threshold}", check("c", m=share(successes, n)))
        chance[record.verdict] += stats.binom.pmf(successes, n, threshold)
    assert chance[PASS] <= 0.025
    assert chance[FAIL] <= 0.025
    assert chance[PASS] + chance[FAIL] > 0.004


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("noise.pgd/robust_accuracy >= 0.4", Gate("noise.pgd", "robust_accuracy", ">=", 0.4, "0.4")),
        ("a@b/m@2/255<40%", Gate("a@b", "m@2/255", "<", 0.4, "40%")),
        ("  a/m>8/255 ", Gate("a", "m", ">", 8 / 255, "8/255")),
        ("a/m <= -1.5", Gate("a", "m", "<=", -1.5, "-1.5")),
    ],
)
def test_gates_are_read_as_they_are_written(text, gate):
    assert parse_gate(text) == gate
    assert parse_gate(str(gate)) == gate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "robust_accuracy >= 0.4",
        "a/m",
        "a/m >=",
        "a/m = 0.4",
        "a/m == 0.4",
        "a/m >= x",
        "a/m >= nan",
        "a/m >= %",
        "a/m >= 0.4 0.5",
        "a/m >= inf",
        "a / m >= 1",
    ],
)
def test_what_is_no_gate_is_refused_and_shown(text):
    with pytest.raises(UsageError, match=re.escape(repr(text))):
        parse_gate(text)


def test_an_inconclusive_gate_says_how_many_images_would_settle_it():
    record = judged("c/m >= 0.4", check("c", m=proportion(43, 100)))
    assert record.verdict is INCONCLUSIVE
    needed = int(re.search(r"about (\d+) images would settle it", record.text)[1])
    assert judged("c/m >= 0.4", check("c", m=proportion(round(0.43 * needed), needed))).verdict is PASS
    stuck = judged("c/m >= 0.4", check("c", m=proportion(40, 100)))
    assert "no practical number of images" in stuck.text


def test_percentages_are_judged_as_shares():
    assert judged("c/m >= 40%", check("c", m=between(0.41, 0.5))).verdict is PASS


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ([], "the audit holds no check c"),
        ([check("c", other=between(0, 1))], "gave no metric m; it gave other"),
        ([check("c", "failed", "boom", m=between(0.9, 1))], "c failed: boom"),
        ([check("c", "skipped", "no gradients")], "c was skipped: no gradients"),
    ],
)
def test_a_metric_that_is_not_there_is_missing_and_says_why(checks, words):
    record = judged("c/m >= 0", *checks)
    assert record.verdict is MISSING
    assert record.estimate is None
    assert words in record.text


def test_judging_again_replaces_the_gates_and_touches_nothing_else():
    before = result(check("c", m=between(0.6, 0.7)))
    once = judge(before, [parse_gate("c/m >= 0.9")])
    twice = judge(once, [parse_gate("c/m >= 0.5")])
    assert (once.verdict, twice.verdict) == (FAIL, PASS)
    assert len(twice.gates) == 1
    assert judge(twice, []) == before


SITUATIONS = {
    "c/m >= 0.5": PASS,
    "c/m >= 0.99": FAIL,
    "c/m >= 0.65": INCONCLUSIVE,
    "c/absent >= 0.5": MISSING,
}


@pytest.mark.parametrize(
    ("gates", "verdict", "code"),
    [
        (["c/m >= 0.5"], PASS, 0),
        ([], Verdict.NONE, 0),
        (["c/m >= 0.5", "c/m >= 0.65"], INCONCLUSIVE, 4),
        (["c/m >= 0.65", "c/absent >= 0.5"], MISSING, 3),
        (["c/m >= 0.99", "c/absent >= 0.5", "c/m >= 0.65", "c/m >= 0.5"], FAIL, 1),
    ],
)
def test_the_worst_gate_gives_verdict_and_exit_code(gates, verdict, code):
    whole = judge(result(check("c", m=between(0.6, 0.7))), map(parse_gate, gates))
    assert [gate.verdict for gate in whole.gates] == [SITUATIONS[text] for text in gates]
    assert whole.verdict is verdict is overall(whole.gates)
    assert exit_code(whole) == code


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ([], ExitCode.NOTHING_EVALUATED),
        ([check("c", "skipped", "r")], ExitCode.NOTHING_EVALUATED),
        ([check("c", "failed", "r")], ExitCode.EXECUTION),
        ([check("c"), check("d", "failed", "r")], ExitCode.EXECUTION),
        ([check("c"), check("d", "skipped", "r")], ExitCode.PASS),
    ],
)
def test_without_gates_a_crashed_check_or_an_empty_audit_is_no_pass(checks, code):
    assert exit_code(result(*checks)) is code


def flag(*doubts, name="sanity.masking"):
    return FlagRecord(id=name, check="sanity", text="t", remedy="Look elsewhere.", doubts=doubts)


DOUBT = (flag("gradients"),)


def test_a_flag_that_doubts_what_a_check_needs_makes_its_pass_inconclusive():
    attack = check(needs=("gradients",), robust_accuracy=between(0.6, 0.7))
    gate = "noise.pgd/robust_accuracy >= 0.5"
    assert judged(gate, attack).verdict is PASS
    doubted = judged(gate, attack, flags=DOUBT)
    assert doubted.verdict is INCONCLUSIVE
    assert doubted.estimate == between(0.6, 0.7)
    for words in ("sanity.masking", "gradients", "Look elsewhere."):
        assert words in doubted.text
    assert exit_code(judge(result(attack, flags=DOUBT), [parse_gate(gate)])) is ExitCode.INCONCLUSIVE


@pytest.mark.parametrize(
    ("estimate", "verdict"), [(between(0.1, 0.2), FAIL), (between(0.4, 0.6), INCONCLUSIVE), (None, MISSING)]
)
def test_doubt_makes_nothing_better_and_leaves_its_words(estimate, verdict):
    metrics = {} if estimate is None else {"robust_accuracy": estimate}
    attack, gate = check(needs=("gradients",), **metrics), "noise.pgd/robust_accuracy >= 0.5"
    assert judged(gate, attack, flags=DOUBT) == judged(gate, attack)
    assert judged(gate, attack, flags=DOUBT).verdict is verdict


@pytest.mark.parametrize(
    ("needs", "flags"),
    [
        ((), DOUBT),
        (("boxes",), DOUBT),
        (("gradients",), (flag(),)),
        (("gradients",), (flag("boxes"),)),
        (("gradients",), ()),
    ],
)
def test_a_check_that_needs_nothing_doubtful_keeps_its_pass(needs, flags):
    attack = check("noise.square", needs=needs, robust_accuracy=between(0.6, 0.7))
    record = judged("noise.square/robust_accuracy >= 0.5", attack, flags=flags)
    assert record.verdict is PASS
    assert "whole interval meets" in record.text


def test_one_doubtful_flag_among_several_is_enough_and_is_the_one_that_is_named():
    attack = check(needs=("boxes", "gradients"), robust_accuracy=between(0.6, 0.7))
    flags = (flag(name="harmless"), flag("boxes", "gradients", name="grave"))
    record = judged("noise.pgd/robust_accuracy >= 0.5", attack, flags=flags)
    assert record.verdict is INCONCLUSIVE
    assert "grave" in record.text
    assert "boxes, gradients" in record.text
    assert "harmless" not in record.text


def test_doubt_about_gradients_leaves_the_clean_accuracy_alone():
    attack = check(needs=("gradients",), clean_accuracy=between(0.6, 0.7))
    assert judged("noise.pgd/clean_accuracy >= 0.5", attack, flags=DOUBT).verdict is PASS


WAIVER = Waiver(reason="a fix is on its way", until=datetime.date(2027, 1, 31), owner="Ada")
BEFORE, AFTER = datetime.date(2027, 1, 31), datetime.date(2027, 2, 1)


def settled(text, *checks, level="error", waiver=None, on=BEFORE, changes=None):
    return judge(result(*checks), [parse_gate(text, level, waiver)], on=on, changes=changes)


@pytest.mark.parametrize("text", ["c/m >= 0.99", "c/m >= 0.65", "c/absent >= 0.5"])
def test_a_warning_is_shown_and_does_not_fail(text):
    whole = settled(text, check("c", m=between(0.6, 0.7)), level="warn")
    (gate,) = whole.gates
    assert gate.verdict is whole.verdict is Verdict.WARN
    assert gate.measured is SITUATIONS[text]
    assert exit_code(whole) == 0
    assert "warning" in gate.note
    assert verdict_sentence(whole).startswith("PASS WITH WARNINGS: 0 of 1 requirement is met, 1 only warned about")


@pytest.mark.parametrize("text", ["c/m >= 0.99", "c/m >= 0.65", "c/absent >= 0.5"])
def test_a_waiver_covers_what_is_not_met_until_its_last_day(text):
    held = settled(text, check("c", m=between(0.6, 0.7)), waiver=WAIVER)
    assert held.gates[0].verdict is held.verdict is Verdict.WAIVED
    assert held.gates[0].note == "waived by Ada until 2027-01-31: a fix is on its way"
    assert exit_code(held) == 0
    assert verdict_sentence(held).startswith("PASS WITH WAIVERS")
    ended = settled(text, check("c", m=between(0.6, 0.7)), waiver=WAIVER, on=AFTER)
    assert ended.verdict is SITUATIONS[text]
    assert "its waiver by Ada ended on 2027-01-31" in ended.gates[0].note
    assert exit_code(ended) != 0


def test_a_stored_result_shows_when_its_waiver_has_ended_since():
    held = settled("c/m >= 0.99", check("c", m=between(0.6, 0.7)), waiver=WAIVER)
    assert judge_again(held, BEFORE) == held
    assert judge_again(held, AFTER) == settled("c/m >= 0.99", check("c", m=between(0.6, 0.7)), waiver=WAIVER, on=AFTER)


def test_a_waiver_that_nobody_needs_is_said_and_changes_nothing():
    whole = settled("c/m >= 0.5", check("c", m=between(0.6, 0.7)), waiver=WAIVER)
    assert whole.verdict is PASS
    assert whole.gates[0].note == "its waiver is not needed"


def test_without_a_day_waivers_are_held_against_the_day_of_the_audit():
    dated = result(check("c", m=between(0.6, 0.7))).model_copy(
        update={"volatile": {"date": "2027-02-01T00:30:00+00:00"}}
    )
    assert judge(dated, [parse_gate("c/m >= 0.99", waiver=WAIVER)]).verdict is FAIL


def test_neither_warnings_nor_waivers_hide_a_failure():
    checks = [check("c", m=between(0.6, 0.7))]
    gates = [
        parse_gate("c/m >= 0.99"),
        parse_gate("c/m >= 0.98", "warn"),
        parse_gate("c/m >= 0.97", waiver=WAIVER),
    ]
    whole = judge(result(*checks), gates, on=BEFORE)
    assert exit_code(whole) == 1
    assert verdict_sentence(whole) == "FAIL: 1 of 3 requirements is not met (1 only warned about, 1 waived)"
    assert exit_code(judge(result(*checks, check("d", "failed", "r")), gates[1:], on=BEFORE)) == 3


@pytest.mark.parametrize(
    ("text", "found", "verdict"),
    [
        ("c/m drop <= 2%", between(-0.01, 0.01), PASS),
        ("c/m drop <= 2%", between(0.03, 0.05), FAIL),
        ("c/m drop <= 2%", between(-0.01, 0.05), INCONCLUSIVE),
        ("c/m drop <= 2%", "its seed is 0, this one 1", MISSING),
    ],
)
def test_a_gate_on_a_change_is_judged_by_the_change(text, found, verdict):
    whole = settled(text, check("c", m=between(0.6, 0.7)), changes=lambda gate: found)
    (gate,) = whole.gates
    assert gate.verdict is verdict
    assert gate.change == "drop"
    assert ("its seed is 0" in gate.text) == (verdict is MISSING)


def test_a_gate_on_a_change_without_a_baseline_is_missing_its_evidence():
    whole = settled("c/m drop <= 2%", check("c", m=between(0.6, 0.7)))
    assert whole.verdict is MISSING
    assert "--baseline" in whole.gates[0].text
    absent = settled("c/absent drop <= 2%", check("c", m=between(0.6, 0.7)), changes=lambda gate: pytest.fail("asked"))
    assert "gave no metric absent" in absent.gates[0].text


@pytest.mark.parametrize(("n", "both"), [(1, "2.5"), (4, "10"), (60, "100")])
def test_the_error_of_the_whole_family_is_stated_and_is_that_of_theory(n, both):
    whole = judge(result(check("c", m=between(0.6, 0.7))), [parse_gate("c/m >= 0.5")] * n)
    words = error_rates(whole)
    assert "passes by luck at most 2.5 % of the time" in words
    assert f"fails by bad luck at most {both} % of the time" in words


def test_a_family_errs_no_more_often_than_it_states():
    """Four gates, each on images of its own: all thresholds are the truth, so any pass or fail is an error."""
    rng = np.random.default_rng(5)
    wrong_pass = wrong_fail = 0
    gates = [parse_gate(f"c{number}/m >= 0.6") for number in range(4)]
    for draws in rng.binomial(100, 0.6, size=(1000, 4)).tolist():
        checks = [check(f"c{number}", m=share(successes, 100)) for number, successes in enumerate(draws)]
        verdict = judge(result(*checks), gates).verdict
        wrong_pass += verdict is PASS
        wrong_fail += verdict is FAIL
    assert wrong_pass <= 25
    assert 20 < wrong_fail <= 100
