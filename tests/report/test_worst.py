"""The worst cases: the lowest robust accuracy of any attack at each norm and budget, and nothing that is no bound."""

from __future__ import annotations

import pytest

from auditkit.report import render_html
from auditkit.report.markdown import markdown_summary
from auditkit.report.worst import Worst, worst_cases, worst_sentence
from auditkit.result import FlagRecord
from auditkit.stats import proportion


def with_robust(result, key, norm, robust):
    """Return the result with one more attack: `robust` images of 100 left, by budget."""
    metrics = {f"robust_accuracy@{budget}": proportion(k, 100) for budget, k in robust.items()}
    check = result.checks[0].model_copy(update={"key": key, "norm": norm, "metrics": metrics, "status": "done"})
    return result.model_copy(update={"checks": (*result.checks, check)})


def lowest(result):
    return [(case.norm, case.budget, case.estimate.value, case.check, case.others) for case in worst_cases(result)]


def test_each_budget_shows_the_attack_that_left_least(result):
    base = result.model_copy(update={"checks": result.checks[:1]})
    before = [case.budget for case in worst_cases(base)]
    weaker = with_robust(base, "noise.weak", "linf", {"8/255": 99})
    assert lowest(weaker)[-1][3:] == ("noise.pgd", 1)
    stronger = with_robust(base, "noise.strong", "linf", {"8/255": 0})
    assert lowest(stronger)[-1] == ("linf", "8/255", 0.0, "noise.strong", 1)
    assert [case.budget for case in worst_cases(stronger)] == before


def test_norms_are_kept_apart_and_budgets_sorted_by_size(result):
    base = result.model_copy(update={"checks": result.checks[:1]})
    audited = with_robust(base, "noise.pgd@l2", "l2", {"0.5": 40, "0.25": 60})
    rows = [(case.norm, case.budget) for case in worst_cases(audited)]
    assert rows[:2] == [("l2", "0.25"), ("l2", "0.5")]
    assert rows[2:] == [("linf", f"{k}/255") for k in (1, 2, 4, 8)]


def test_what_has_no_bound_is_no_worst_case(result):
    base = result.model_copy(update={"checks": result.checks[:1]})
    for norm in (None, "free"):
        assert lowest(with_robust(base, "noise.gaussian", norm, {"8/255": 0})) == lowest(base)


def test_without_attacks_there_is_no_headline(result):
    bare = result.model_copy(update={"checks": ()})
    assert worst_sentence(bare) is None
    assert "Under attack" not in markdown_summary(bare)
    assert 'id="worst"' not in render_html(bare, {}, layout="single").html


def test_the_headline_reaches_page_and_markdown(result, arrays):
    audited = with_robust(result, "noise.strong", "linf", {"8/255": 0})
    assert "| linf 8/255 | 0.0 % (0.0 to 3.6 %) | `noise.strong` | 100 |" in markdown_summary(audited)
    page = render_html(audited, arrays, layout="single").html
    assert 'id="worst"' in page
    assert "cannot be trusted" not in page


def test_a_doubt_stands_beside_the_headline(result, arrays):
    flag = FlagRecord(
        id="sanity.masking", check="sanity.gradients", text="Noise wins.", remedy="Look.", doubts=("gradients",)
    )
    page = render_html(result.model_copy(update={"flags": (flag,)}), arrays, layout="single").html
    assert "Gradient attacks cannot be trusted on this model" in page


@pytest.mark.parametrize(
    ("norm", "budget", "words"),
    [
        ("linf", "8/255", "linf 8/255"),
        ("area", "0.09765625", "9.77 % of the pixels"),
        ("area", "odd", "area odd"),
        ("l0", "1", "1 pixel"),
        ("l0", "10", "10 pixels"),
    ],
)
def test_budgets_read_as_people_say_them(norm, budget, words):
    assert Worst(norm, budget, proportion(1, 2), "made.up", 0).words == words
