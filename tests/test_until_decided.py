"""Stopping as soon as every gate is decided: fewer images, the same verdict, and intervals that allow for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import auditkit
from auditkit.anytime import ANYTIME_CHANGE, ANYTIME_SHARE, anytime_share
from auditkit.errors import UsageError
from auditkit.result import Verdict
from auditkit.samples import Shuffled, open_dataset
from auditkit.testing import LinearModel, toy_samples

PLAIN = {
    "checks": ("noise.gaussian",),
    "options": {"noise.gaussian": {"draws": 1, "eps": "1/255"}},
    "preset": "smoke",
    "precision": "float32",
    "device": "cpu",
}
CLEAN = "noise.gaussian/clean_accuracy"


class Often(LinearModel):
    """Right about the images whose first pixel is bright enough: a share that is known."""

    def __init__(self, share):
        super().__init__(classes=3, seed=1)
        self.below = 0.75 - 0.5 * share

    def forward(self, images):
        scores = super().forward(images)
        return torch.where((images[:, 0, 0, 0] < self.below).unsqueeze(1), -scores, scores)


@pytest.fixture(scope="module")
def data():
    samples = toy_samples(600, seed=3, network=LinearModel(classes=3, seed=1), wrong_every=601)
    return samples.images, samples.labels


def audited(share, data, out=None, **more):
    return auditkit.audit(Often(share), data, out=out, until_decided=True, **{**PLAIN, **more})


@pytest.mark.parametrize(
    ("share", "gate", "verdict"),
    [
        (0.75, f"{CLEAN} >= 0.6", Verdict.PASS),
        (0.45, f"{CLEAN} >= 0.6", Verdict.FAIL),
        (0.75, f"{CLEAN} <= 0.9", Verdict.PASS),
    ],
)
def test_a_value_fifteen_points_from_its_threshold_takes_a_third_of_the_images(data, share, gate, verdict):
    found = audited(share, data, gates=[gate])
    assert found.verdict is verdict
    assert found.result.samples.n <= 200
    assert found.result.samples.n % 32 == 0
    assert found.result.samples.of == 600
    assert len(found.table["id"]) == found.result.samples.n


def test_the_audit_goes_on_until_the_last_gate_is_decided(data):
    easy, hard = (audited(0.75, data, gates=[gate]) for gate in (f"{CLEAN} >= 0.3", f"{CLEAN} >= 0.6"))
    both = audited(0.75, data, gates=[f"{CLEAN} >= 0.3", f"{CLEAN} >= 0.6"])
    assert easy.result.samples.n < hard.result.samples.n == both.result.samples.n


def test_a_value_on_its_threshold_takes_all_images_and_stays_undecided(data):
    found = audited(0.6, data, gates=[f"{CLEAN} >= 0.6"])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.result.samples.n == found.result.samples.of == 600
    assert "used all 600 images" in found.result.notes[-1].text


def test_every_share_carries_an_interval_that_holds_at_every_look_and_the_result_says_so(data):
    found = audited(0.75, data, gates=[f"{CLEAN} >= 0.6"])
    check = found.result.checks[0]
    shares = [estimate for name, estimate in check.metrics.items() if check.metric_columns[name].kind == "share"]
    assert shares
    assert {estimate.method for estimate in shares} == {ANYTIME_SHARE}
    estimate = check.metrics["clean_accuracy"]
    assert estimate == anytime_share(round(estimate.value * estimate.n), estimate.n)
    assert found.result.settings["until_decided"] is True
    assert f"stopped after {found.result.samples.n} of 600" in found.result.notes[-1].text


def test_the_images_are_a_random_draw_that_the_seed_decides(data):
    first, again, other = (audited(0.75, data, gates=[f"{CLEAN} >= 0.6"], seed=seed) for seed in (0, 0, 1))
    assert list(first.table["id"]) == list(again.table["id"])
    assert first.result.checks == pytest.approx(again.result.checks) or [c.metrics for c in first.result.checks] == [
        c.metrics for c in again.result.checks
    ]
    assert set(first.table["id"]) != set(other.table["id"])
    assert list(first.table["id"]) != [f"{row}" for row in range(len(first.table["id"]))]


def test_an_image_gets_the_findings_that_it_gets_in_a_whole_audit(data):
    some = audited(0.75, data, gates=[f"{CLEAN} >= 0.6"])
    whole = auditkit.audit(Often(0.75), data, **PLAIN)
    place = {name: row for row, name in enumerate(whole.table["id"])}
    rows = [place[name] for name in some.table["id"]]
    for name, column in some.table.items():
        np.testing.assert_array_equal(column, whole.table[name][rows], err_msg=name)


def test_the_same_command_goes_on_where_it_stopped(data, tmp_path):
    found = audited(0.75, data, out=tmp_path / "audit", gates=[f"{CLEAN} >= 0.6"])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "audit" / "units").iterdir()}
    again = audited(0.75, data, out=tmp_path / "audit", gates=[f"{CLEAN} >= 0.6"])
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "audit" / "units").iterdir()}
    assert before == after, "nothing was computed twice"
    assert [c.metrics for c in again.result.checks] == [c.metrics for c in found.result.checks]
    more = audited(0.75, data, out=tmp_path / "audit", gates=[f"{CLEAN} >= 0.66"])
    assert more.result.samples.n > found.result.samples.n
    kept = {path: path.stat().st_mtime_ns for path in before}
    assert kept == before


def test_a_drop_against_a_baseline_is_decided_early_too(data, tmp_path):
    auditkit.audit(Often(0.9), data, out=tmp_path / "base", **PLAIN)
    found = audited(0.6, data, gates=[f"{CLEAN} drop <= 10%"], baseline=tmp_path / "base")
    assert found.verdict is Verdict.FAIL
    assert found.result.samples.n <= 200
    assert found.result.gates[0].estimate.method == ANYTIME_CHANGE


def test_a_check_that_fails_ends_the_wait(data):
    found = audited(
        0.75, data, gates=["noise.pgd/clean_accuracy >= 0.6"], checks=("noise.pgd",), options={}, time_limit=1e-9
    )
    assert found.verdict is Verdict.MISSING
    assert found.result.samples.n == 32


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"gates": []}, "needs a gate"),
        ({"gates": ["noise.gaussian/steps_to_success >= 0"]}, "steps_to_success is a mean"),
        ({"gates": ["noise.universal/clean_accuracy >= 0"], "checks": ("noise.universal",)}, "learns from half"),
        ({"gates": ["samples.hard/hard_share <= 1"], "checks": ("samples.hard", "noise.gaussian")}, "reads what other"),
        ({"gates": [f"{CLEAN} >= 0.6"], "workers": 2}, "workers is 0, not 2"),
    ],
)
def test_what_cannot_be_decided_image_by_image_is_refused_before_anything_is_measured(data, tmp_path, more, words):
    options = {} if "checks" in more and "noise.gaussian" not in more["checks"] else PLAIN["options"]
    with pytest.raises(UsageError, match=words):
        audited(0.75, data, out=tmp_path / "audit", **{"options": options, **more})
    assert not (tmp_path / "audit").exists()


def test_a_shuffled_data_set_holds_each_image_once_and_reads_no_others(data):
    dataset = open_dataset(data)
    shuffled = Shuffled(dataset, seed=4)
    read = [shuffled.read(start, min(start + 70, 600)).samples for start in range(0, 600, 70)]
    ids = [name for samples in read for name in samples.ids]
    whole = dataset.read(0, 600).samples
    assert sorted(ids) == sorted(whole.ids)
    assert ids != list(whole.ids)
    place = {name: row for row, name in enumerate(whole.ids)}
    for samples in read:
        assert torch.equal(samples.images, whole.images[[place[name] for name in samples.ids]])
    assert len(shuffled.read(5, 5).samples) == 0
    assert (shuffled.source, shuffled.class_names) == (dataset.source, dataset.class_names)
