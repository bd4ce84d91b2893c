from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from auditkit.gate import judge
from auditkit.report import junit_xml, markdown_summary, verdict_sentence
from auditkit.report.fields import field_rows
from auditkit.report.text import estimate_text, metric_title, requirement_text
from auditkit.requirements import parse_gate
from auditkit.result import Verdict
from auditkit.stats import proportion


def parse(text: str | bytes) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 (our own output)


def without_failures(result):
    return result.model_copy(update={"checks": tuple(c for c in result.checks if c.status != "failed")})


@pytest.mark.parametrize(
    ("gates", "sentence"),
    [
        ([], "NOT GATED: no requirements were set"),
        (["noise.pgd/clean_accuracy >= 0.9"], "PASS: the requirement is met"),
        (
            ["noise.pgd/clean_accuracy >= 0.9", "pixel.one/clean_accuracy > 0.5"],
            "PASS: both requirements are met",
        ),
        (["noise.pgd/robust_accuracy >= 0.4"], "FAIL: 1 of 1 requirement is not met"),
        (["noise.pgd/robust_accuracy@2/255 >= 0.6"], "INCONCLUSIVE: 1 of 1 requirement is undecided"),
        (["detect.cover/x > 0"], "INCOMPLETE: 1 of 1 requirement has no evidence"),
    ],
)
def test_the_sentence_says_the_outcome(result, gates, sentence):
    judged = judge(without_failures(result), [parse_gate(gate) for gate in gates])
    assert verdict_sentence(judged) == sentence


def test_a_crashed_check_never_reads_as_a_pass(result):
    judged = judge(result, [parse_gate("noise.pgd/clean_accuracy >= 0.9")])
    assert judged.verdict is Verdict.PASS
    assert verdict_sentence(judged) == "INCOMPLETE: the requirement is met, but 1 check failed to run"


def test_nothing_done_is_said(nothing_done):
    assert verdict_sentence(nothing_done) == "NOTHING EVALUATED: no check was run to its end"


def test_numbers_read_as_shares_where_they_are(result):
    assert estimate_text(proportion(247, 600)) == "41.2 % (37.2 to 45.2 %)"
    assert estimate_text(result.checks[3].metrics["saliency_inside"]) == "1.291 (1.259 to 1.323)"
    assert {requirement_text(gate) for gate in result.gates} >= {"≥ 60 %", "≥ 40 %", "≥ 0.5"}
    assert metric_title(result.checks[0], "robust_accuracy@2/255") == "Robust accuracy at 2/255"
    assert metric_title(None, "some_thing") == "Some thing"


def test_settings_read_as_a_person_writes_them():
    fields = {
        "eps": [8 / 255, 0.5],
        "deep": {"on": True, "off": None, "empty": {}},
        "grid": [[1, 2]],
        "n": 3.0,
    }
    assert field_rows(fields) == [
        ("eps", "8/255 (0.03137), 0.5"),
        ("deep.on", "yes"),
        ("deep.off", "none"),
        ("deep.empty", "{}"),
        ("grid", "[[1, 2]]"),
        ("n", "3"),
    ]


def test_junit_counts_what_it_holds(result):
    root = parse(junit_xml(result).encode())
    assert [suite.get("name") for suite in root] == [check.key for check in result.checks]
    assert {name: root.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "11",
        "failures": "2",
        "errors": "1",
    }
    for name, tag in (
        ("tests", "testcase"),
        ("failures", "failure"),
        ("errors", "error"),
        ("skipped", "skipped"),
    ):
        assert sum(int(suite.get(name, "")) for suite in root) == len(list(root.iter(tag)))
        # The schema of Jenkins knows no count of skipped tests at the root.
        assert root.get(name) in (str(len(list(root.iter(tag)))), None if name == "skipped" else "")
    assert sorted(failure.get("type", "") for failure in root.iter("failure")) == ["fail", "inconclusive"]
    assert {p.get("value") for p in root.iter("property") if p.get("name") == "model.digest"} == {result.model.digest}


def test_junit_shows_a_crash_without_requirements(ungated):
    (error,) = parse(junit_xml(ungated).encode()).iter("error")
    assert "not finite at step 3" in error.get("message", "")


def test_junit_holds_any_text(hostile):
    root = parse(junit_xml(hostile).encode())
    assert "<script>alert(1)</script>" in root.get("name", "")
    assert "\ufffd" in root.get("name", "")


def test_markdown_tells_the_outcome_first_and_failures_first(result):
    text = markdown_summary(result)
    assert text.startswith("### FAIL: 1 of 5 requirements is not met")
    words = [text.index(word) for word in ("❌ Fail", "⭕ No evidence", "❔ Inconclusive", "✅ Pass")]
    assert words == sorted(words)
    for check in result.checks:
        assert f"`{check.key}`" in text
    assert result.flags[0].remedy in text


def test_markdown_lets_no_text_act(hostile):
    text = markdown_summary(hostile)
    prose = re.sub(r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    assert "<" not in prose
    assert not re.search(r"(?<!\\)://", prose)
    assert not re.search(r"(?<!\\)[\[$]", prose)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_markdown_stays_small(result):
    many = tuple(result.checks[0].model_copy(update={"key": f"noise.pgd@{n}"}) for n in range(500))
    gates = [parse_gate(f"noise.pgd@{n}/robust_accuracy >= 0.4") for n in range(500)]
    text = markdown_summary(judge(result.model_copy(update={"checks": many}), gates))
    assert len(text.encode()) < 60_000
    assert "more in the full report" in text
