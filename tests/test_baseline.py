"""Against a baseline: image by image, on the same images, or not at all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import auditkit
from auditkit.baseline import Measured, change_for, pairs_of
from auditkit.cli import main
from auditkit.comparison import Comparison, compare
from auditkit.errors import UsageError
from auditkit.gate import exit_code
from auditkit.paired import paired_share
from auditkit.report.compared import compared_html, compared_lines, compared_markdown
from auditkit.requirements import parse_gate
from auditkit.result import Verdict
from auditkit.testing import LinearModel, toy_samples

PLAIN = {
    "checks": ("noise.gaussian", "noise.uniform"),
    "options": {"noise.gaussian": {"draws": 2, "eps": "4/255, 32/255"}, "noise.uniform": {"draws": 1, "eps": "8/255"}},
    "preset": "smoke",
    "precision": "float32",
    "device": "cpu",
}
CLEAN = "noise.gaussian/clean_accuracy"


class Worse(LinearModel):
    """The network of the baseline, which is wrong about every image whose first pixel is dark."""

    def __init__(self, below=0.3):
        super().__init__(classes=3, seed=1)
        self.below = below

    def forward(self, images):
        scores = super().forward(images)
        return torch.where((images[:, 0, 0, 0] < self.below).unsqueeze(1), -scores, scores)


@pytest.fixture(scope="module")
def data():
    samples = toy_samples(300, seed=3, network=LinearModel(classes=3, seed=1), wrong_every=301)
    return samples.images, samples.labels


def audited(network, data, out, **more):
    return auditkit.audit(network, data, out=out, **{**PLAIN, **more})


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("base") / "audit"
    return audited(LinearModel(classes=3, seed=1), data, out), out


@pytest.fixture(scope="module")
def worse(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("worse") / "audit"
    return audited(Worse(), data, out), out


def dark(data):
    return int((data[0][:, 0, 0, 0] < 0.3).sum())


def test_the_change_of_a_metric_is_counted_image_by_image(base, worse, data):
    change = change_for(parse_gate(f"{CLEAN} drop <= 2%"), base[0].measured, worse[0].measured)
    assert change == paired_share(dark(data), 0, 300)
    rise = change_for(parse_gate(f"{CLEAN} rise <= 2%"), base[0].measured, worse[0].measured)
    assert (rise.value, rise.low, rise.high) == (-change.value, -change.high, -change.low)


def test_the_table_of_an_audit_gives_every_metric_again(worse):
    """What outsiders read from `samples.npz` with `metric_columns` is what the result says."""
    audited = worse[0]
    counted = 0
    for check in audited.result.checks:
        for name, estimate in check.metrics.items():
            column = check.metric_columns[name]
            values = audited.table[f"{check.key}/{column.column}"]
            if column.among is not None:
                values = values[audited.table[f"{check.key}/{column.among}"].astype(bool)]
            reduce = np.median if column.kind == "median" else np.mean
            assert reduce(values) == pytest.approx(estimate.value)
            assert len(values) == estimate.n
            counted += 1
    assert counted > 10


def test_the_order_of_the_images_does_not_matter(base, worse):
    table = worse[0].table
    backwards = Measured(worse[0].result, {name: column[::-1] for name, column in table.items()})
    gate = parse_gate(f"{CLEAN} drop <= 2%")
    assert change_for(gate, base[0].measured, backwards) == change_for(gate, base[0].measured, worse[0].measured)


def test_only_images_that_count_in_both_are_compared(base, worse, data):
    pairs = pairs_of(base[0].measured, worse[0].measured, "noise.gaussian", "attack_success_rate")
    assert len(pairs.before) == 300 - dark(data)


@pytest.mark.parametrize(
    ("gate", "verdict", "code"),
    [(f"{CLEAN} drop <= 40%", Verdict.PASS, 0), (f"{CLEAN} drop <= 2%", Verdict.FAIL, 1)],
)
def test_a_gate_against_a_baseline_decides(base, data, tmp_path, gate, verdict, code):
    judged = audited(Worse(), data, tmp_path / "audit", baseline=base[1], gates=[gate])
    assert judged.verdict is verdict
    assert exit_code(judged.result) == code
    assert judged.result.gates[0].estimate.n == 300


def changed(measured, **settings):
    """Return an audit that differs from this one."""
    result, table = measured.result, dict(measured.table)
    if "seed" in settings:
        result = result.model_copy(update={"settings": {**result.settings, "seed": 7}})
    if "options" in settings:
        checks = tuple(c.model_copy(update={"options": {**c.options, "draws": 9}}) for c in result.checks)
        result = result.model_copy(update={"checks": checks})
    if "version" in settings:
        checks = tuple(c.model_copy(update={"version": 99}) for c in result.checks)
        result = result.model_copy(update={"checks": checks})
    if "pixels" in settings:
        table["digest"] = np.array(["0" * 16, *table["digest"][1:]])
    if "others" in settings:
        table["id"] = np.array([f"other-{name}" for name in table["id"]])
    if "no digests" in settings:
        del table["digest"]
    if "no check" in settings:
        result = result.model_copy(update={"checks": ()})
    if "skipped" in settings:
        checks = tuple(c.model_copy(update={"status": "skipped", "reason": "r"}) for c in result.checks)
        result = result.model_copy(update={"checks": checks})
    return Measured(result, table)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ("seed", "its seed is 7, this one 0"),
        ("options", "noise.gaussian.draws was 9, here it is 2"),
        ("version", "version 99"),
        ("pixels", "1 of 300 images of the same name differ in pixels or label, such as"),
        ("others", "they have no image in common"),
        ("no digests", "the images have no digests"),
        ("no check", "the baseline holds no check noise.gaussian"),
        ("skipped", "in the baseline noise.gaussian was not run to its end"),
    ],
)
def test_what_cannot_be_compared_is_no_evidence_and_says_why(base, worse, difference, words):
    other = changed(base[0].measured, **{difference: True})
    found = change_for(parse_gate(f"{CLEAN} drop <= 40%"), other, worse[0].measured)
    assert isinstance(found, str)
    assert words in found


def test_a_change_without_a_baseline_is_refused_before_anything_is_measured(data, tmp_path):
    with pytest.raises(UsageError, match="--baseline RESULT"):
        audited(Worse(), data, tmp_path / "audit", gates=[f"{CLEAN} drop <= 2%"])
    with pytest.raises(UsageError, match="no stored audit"):
        audited(Worse(), data, tmp_path / "audit", gates=[f"{CLEAN} drop <= 2%"], baseline=tmp_path / "none")
    assert not (tmp_path / "audit").exists()


def run(*words, monkeypatch):
    monkeypatch.setattr("sys.argv", ["auditkit", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


def test_a_stored_audit_is_judged_against_a_baseline_on_the_command_line(base, worse, monkeypatch, capsys, tmp_path):
    words = ("gate", worse[1], "--baseline", base[1])
    assert run(*words, "--gate", f"{CLEAN} drop <= 2%", monkeypatch=monkeypatch) == 1
    assert run(*words, "--gate", f"{CLEAN} drop <= 40%", "--warn", f"{CLEAN} drop <= 2%", monkeypatch=monkeypatch) == 0
    assert "PASS WITH WARNINGS: 1 of 2 requirements is met, 1 only warned about" in capsys.readouterr().out
    assert run("gate", worse[1], "--gate", f"{CLEAN} drop <= 2%", monkeypatch=monkeypatch) == 3
    assert run(*words, monkeypatch=monkeypatch) == 2
    (tmp_path / "gates.toml").write_text(f'baseline = "{base[1]}"\ngates = ["{CLEAN} drop <= 2%"]\n')
    assert run("gate", worse[1], "--config", tmp_path / "gates.toml", monkeypatch=monkeypatch) == 1


def test_a_comparison_finds_what_moved_and_nothing_else(base, worse, data):
    comparison = compare(base[0].measured, worse[0].measured)
    moved = {f"{change.check}/{change.metric}": change for change in comparison.moved}
    assert CLEAN in moved
    assert moved[CLEAN].rise.value == pytest.approx(-dark(data) / 300)
    assert "noise.gaussian/attack_success_rate@4/255" not in moved
    assert " fell" in comparison.sentence()
    names = [f"{change.check}/{change.metric}" for change in comparison.changes]
    assert len(names) == len(set(names))
    assert "noise.gaussian/robust_accuracy" not in names, "it is that of the largest budget, and would count twice"
    assert worse[0].compared_with(base[0]) == comparison
    same = compare(base[0].measured, base[0].measured)
    assert not same.moved
    assert "moved by more than chance" in same.sentence()


def test_an_audit_that_could_stop_early_is_not_compared_by_p_values_of_a_single_look(base, worse):
    result = worse[0].result
    early = result.model_copy(update={"settings": {**result.settings, "until_decided": True}})
    for pair in ((base[0].measured, Measured(early, {})), (Measured(early, {}), base[0].measured)):
        with pytest.raises(UsageError, match="until_decided, so no p-value would hold"):
            compare(*pair)


def test_p_values_hold_for_all_metrics_together(base, data, tmp_path):
    """Networks that differ in nothing but luck: at most one comparison of twenty finds anything."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(40):
        tables = []
        for _side in range(2):
            table = dict(base[0].table)
            for name, column in table.items():
                if "robust" in name or "correct" in name:
                    table[name] = rng.random(len(column)) < 0.5
            tables.append(Measured(base[0].result, table))
        found += bool(compare(*tables).moved)
    assert found <= 6


def test_a_comparison_is_written_in_every_form(base, worse, monkeypatch, capsys, tmp_path):
    for form in ("html", "json", "markdown"):
        assert (
            run("compare", base[1], worse[1], "--out", tmp_path / form, "--format", form, monkeypatch=monkeypatch) == 0
        )
    out = capsys.readouterr().out
    assert f"{CLEAN}: 100.0 %" in out
    comparison = compare(base[0].measured, worse[0].measured)
    assert Comparison.model_validate_json((tmp_path / "json").read_text()) == comparison
    assert (tmp_path / "html").read_text() == compared_html(comparison)
    assert "### " in (tmp_path / "markdown").read_text()
    assert run("compare", base[1], tmp_path / "nowhere", monkeypatch=monkeypatch) == 2


def test_names_are_text_in_every_form_of_a_comparison(base, worse):
    evil = "<script>alert(1)</script>"
    result = worse[0].result
    checks = tuple(
        check.model_copy(update={"metric_titles": dict.fromkeys(check.metric_titles, evil)}) for check in result.checks
    )
    model = result.model.model_copy(update={"name": evil})
    hostile = Measured(result.model_copy(update={"checks": checks, "model": model}), worse[0].table)
    comparison = compare(dataclasses.replace(base[0].measured), hostile)
    assert "<script" not in compared_html(comparison)
    assert "&lt;script&gt;" in compared_html(comparison)
    assert "<script" not in compared_markdown(comparison).replace("`<script>alert(1)</script>`", "")
    assert all("\n" not in line for line in compared_lines(comparison))
