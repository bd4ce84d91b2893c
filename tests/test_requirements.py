"""Requirements as people write them: text or table, level, waiver; what is wrong gets one line."""

from __future__ import annotations

import datetime

import pytest

from auditkit.config import read_config, settings_from
from auditkit.errors import UsageError
from auditkit.requirements import Gate, Waiver, parse_gate, parse_requirement

WAIVER = {"reason": "retrained next week", "until": "2027-01-31", "owner": "Ada"}


@pytest.mark.parametrize(
    ("text", "change", "bound", "threshold"),
    [
        ("noise.pgd/robust_accuracy@2/255 drop <= 2%", "drop", "<=", 0.02),
        ("noise.pgd/robust_accuracy@2/255 drop<=2%", "drop", "<=", 0.02),
        ("noise.pgd/robust_accuracy@2/255   rise  < 1/50", "rise", "<", 0.02),
        ("noise.pgd/robust_accuracy@2/255 drop <= -1%", "drop", "<=", -0.01),
        ("noise.pgd/robust_accuracy@2/255>=0.5", None, ">=", 0.5),
    ],
)
def test_a_gate_may_be_about_how_far_a_metric_moved(text, change, bound, threshold):
    gate = parse_gate(text)
    assert (gate.check, gate.metric) == ("noise.pgd", "robust_accuracy@2/255")
    assert (gate.change, gate.bound, gate.threshold) == (change, bound, threshold)
    assert parse_gate(str(gate)) == gate


def test_a_metric_may_be_called_drop():
    assert parse_gate("c/drop >= 1") == Gate("c", "drop", ">=", 1.0, "1")
    assert parse_gate("c/drop drop >= 1").change == "drop"


def test_a_table_gives_level_and_waiver():
    gate = parse_requirement({"require": "c/m >= 0.5", "level": "warn", "waiver": WAIVER})
    assert gate.level == "warn"
    assert gate.waiver == Waiver(reason="retrained next week", until=datetime.date(2027, 1, 31), owner="Ada")
    assert parse_requirement(gate) is gate
    assert parse_requirement("c/m >= 0.5") == parse_requirement({"require": "c/m >= 0.5"})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "a gate is a text, or a table with require"),
        ({}, "a gate is a text, or a table with require"),
        ({"require": "c/m >= 0.5", "levle": "warn"}, "did you mean level"),
        ({"require": "c/m >= 0.5", "level": "off"}, "level is error or warn"),
        ({"require": "c/m"}, "a gate reads"),
        ({"require": "c/m >= 0.5", "waiver": {**WAIVER, "reason": " "}}, "waiver.reason"),
        ({"require": "c/m >= 0.5", "waiver": {"reason": "r", "owner": "o"}}, "waiver.until"),
        ({"require": "c/m >= 0.5", "waiver": {**WAIVER, "until": "soon"}}, "waiver.until"),
        ({"require": "c/m >= 0.5", "waiver": {**WAIVER, "by": "o"}}, "waiver.by"),
        ({"require": "c/m >= 0.5", "waiver": "Ada said so"}, 'a waiver reads {reason = "..."'),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_line(given, words):
    with pytest.raises(UsageError) as raised:
        parse_requirement(given)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_configuration_mixes_texts_and_tables(tmp_path):
    (tmp_path / "auditkit.toml").write_text(
        """
        baseline = "before"
        gates = [
            "c/m >= 0.5",
            {require = "c/m drop <= 2%", level = "warn"},
            {require = "c/n >= 0.5", waiver = {reason = "r", until = 2027-01-31, owner = "o"}},
        ]
        """
    )
    settings = settings_from(read_config(tmp_path / "auditkit.toml"))
    assert settings.baseline == tmp_path / "before"
    first, second, third = (parse_requirement(given) for given in settings.gates)
    assert (first.level, second.level, second.change) == ("error", "warn", "drop")
    assert third.waiver is not None
    assert third.waiver.until == datetime.date(2027, 1, 31)
