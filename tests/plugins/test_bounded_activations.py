"""What bounds buy: known networks, the four cells, the joint search, hidden gradients; shards change nothing."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rectified_networks import Gelu, rectified
from scipy import stats
from torch import nn

from auditkit import Context, ExecutionError, Shelf
from auditkit.config import settings_from
from auditkit.findings import metrics
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.samples import Samples
from auditkit.testing import assert_contract, run_check, run_learn, toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.bounded_activations import BoundedActivations
from auditkit_plugins.four_cells import cell_columns, cell_table, cell_tally, clean_verdict, verdict
from auditkit_plugins.joint_stickers import stickers_for_both
from auditkit_plugins.sticker import Sticker

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
QUICK = {"queries": 5, "steps": 2, "side": 0.3, "quantile": 0.9}
CELLS = ("none", "bounded_only", "original_only", "both")


class Alarm(nn.Module):
    """Names class 1 if light pixels, of which clean images have none, are loud enough: a bound silences them."""

    def __init__(self, corner=slice(None), sign=1.0):
        super().__init__()
        self.corner, self.sign = corner, sign
        self.see = nn.Conv2d(3, 1, 1)
        with torch.no_grad():
            self.see.weight.fill_(10 * sign)
            self.see.bias.fill_(-21.0 if sign > 0 else 9.0)

    def forward(self, images):
        loud = self.see(images).relu()[:, 0, self.corner, self.corner].mean((1, 2))
        return torch.stack([torch.full_like(loud, 0.05), loud], 1)


class Threshold(nn.Module):
    """Class 0 as long as the mean of the image, rectified, is more than 0.49."""

    def __init__(self):
        super().__init__()
        self.mean, self.score = nn.Linear(192, 1), nn.Linear(1, 2)
        with torch.no_grad():
            self.mean.weight.fill_(1 / 192)
            self.mean.bias.zero_()
            self.score.weight.copy_(torch.tensor([[100.0], [0.0]]))
            self.score.bias.copy_(torch.tensor([-49.0, 0.0]))

    def forward(self, images):
        return self.score(self.mean(images.flatten(1)).relu())


def lively():
    """Return a network with two rectifiers, which names three of its four classes for the toy images."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    )
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return network.eval()


def grey(means, prefix="grey"):
    images = torch.tensor(means, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone()
    return Samples(images, torch.zeros(len(means), dtype=torch.int64), tuple(f"{prefix}{n}" for n in range(len(means))))


def found(network, learned, judged, **options):
    """Return the findings and the values of the metrics."""
    check = BoundedActivations(**{**QUICK, **options})
    model = toy_model(network, judged.images)
    findings = run_check(check, model, judged, lesson=run_learn(check, model, learned))
    return findings, {name: estimate.value for name, estimate in metrics(check.spec, findings.columns)[0].items()}


@pytest.mark.parametrize(
    "options",
    [{}, {"train": 1, "layers": "late", "per": "layer", "overflow": "clip"}],
    ids=["quantiles", "trained"],
)
def test_it_keeps_the_contract(options):
    network = lively()
    samples = toy_samples(10, network=network, wrong_every=4)
    assert_contract(BoundedActivations, options={**QUICK, **options}, network=network, samples=samples)


def test_a_bound_that_silences_what_only_stickers_wake_removes_all_their_successes():
    findings, values = found(Alarm(), grey([0.5, 0.52, 0.55]), grey([0.5, 0.51, 0.53, 0.55], "other"), queries=40)
    assert values["fooled_original_only"] == values["stickers_removed"] == 1
    assert values["robust_accuracy"] == 0
    assert values["bounded_robust_accuracy"] == values["bounded_clean_accuracy"] == 1
    assert values["transfer_to_bounded"] == values["joint_success"] == values["clean_lost"] == 0
    assert "transfer_to_original" not in values, "no sticker was found against the bounded network"
    np.testing.assert_array_equal(findings.tallies["stickers"].array, [0, 0, 4, 0])
    assert sorted(exhibit.sample for exhibit in findings.exhibits) == [f"other{row}" for row in range(4)]
    for exhibit in findings.exhibits:
        assert exhibit.caption.startswith("with stickers the original network takes class 0 for class 1; ")
        clean, attacked = (panel.array for panel in exhibit.panels)
        assert len(np.unique(clean)) == 1
        assert set(np.unique(attacked)) <= {0, *np.unique(clean), 255}
        assert 255 in attacked


def test_a_gradient_that_a_bound_hides_is_found_out():
    learned, judged = grey([0.5, *np.linspace(0.55, 0.6, 63)]), grey([0.51, 0.52, 0.53], "other")
    options = {"quantile": 0.01, "overflow": "clip", "eps": (0.05,), "steps": 4}
    _, values = found(Threshold(), learned, judged, **options)
    assert values["bounded_noise_robust_accuracy"] == 1
    assert values["noise_robust_accuracy"] == values["bpda_robust_accuracy"] == 0
    assert values["hidden_from_gradient"] == values["noise_both"] == 1
    (flag,) = (flag for flag in BoundedActivations.spec.flags if flag.metric == "hidden_from_gradient")
    assert flag.above < 1


def test_without_bounds_both_networks_fall_to_the_same_attacks():
    network = lively()
    samples = toy_samples(24, network=network)
    lesson = {f"bound{place:04d}": np.full(6, np.inf, dtype=np.float32) for place in range(2)}
    model = toy_model(network, samples.images)
    findings = run_check(BoundedActivations(queries=4, side=0.2, eps=(0.02,)), model, samples, lesson=lesson)
    columns = findings.columns
    for one, other in (
        ("clean_correct", "bounded_clean_correct"),
        ("robust", "bounded_robust"),
        ("noise_robust", "bounded_noise_robust"),
        ("noise_robust", "bpda_robust"),
        ("fooled_both", "transfer_to_bounded"),
        ("fooled_both", "transfer_to_original"),
    ):
        np.testing.assert_array_equal(columns[one], columns[other])
    assert (columns["joint_success"] >= columns["fooled_both"]).all()
    for name in ("clean_lost", "hidden_from_gradient", "fooled_bounded_only", "noise_original_only"):
        assert not columns[name].any()
    assert columns["fooled_both"].any()
    assert columns["fooled_none"].any()
    assert columns["noise_both"].any()


def test_only_images_that_both_networks_get_right_are_in_the_cells():
    network = lively()
    findings, values = found(
        network, toy_samples(20, network=network), toy_samples(30, 1, network=network), quantile=0.3
    )
    columns = findings.columns
    attacked = columns["attacked_both"]
    np.testing.assert_array_equal(attacked, columns["clean_correct"] & columns["bounded_clean_correct"])
    assert 0 < attacked.sum() < columns["clean_correct"].sum()
    for attack in ("fooled", "noise"):
        np.testing.assert_array_equal(sum(columns[f"{attack}_{cell}"].astype(int) for cell in CELLS), attacked)
        assert sum(values[f"{attack}_{cell}"] for cell in CELLS) == pytest.approx(1)
    before, after = columns["clean_correct"], columns["bounded_clean_correct"]
    wanted = [(~before & ~after).sum(), (~before & after).sum(), (before & ~after).sum(), (before & after).sum()]
    np.testing.assert_array_equal(findings.tallies["clean"].array, wanted)


def test_the_bounds_are_the_options():
    network = lively()
    samples = toy_samples(40, network=network)
    model = toy_model(network, samples.images)

    def lesson(**options):
        return list(run_learn(BoundedActivations(**{**QUICK, **options}), model, samples).values())

    plain = lesson()
    assert [bound.shape for bound in plain] == [(6,)] * 2
    assert all((loose >= bound).all() for loose, bound in zip(lesson(quantile=0.99), plain, strict=True))
    assert [bound.shape for bound in lesson(per="layer")] == [()] * 2
    late = lesson(layers="late", train=1)
    assert [bool(np.isinf(bound).all()) for bound in late] == [True, False]
    trained = lesson(train=1)
    assert all(not np.array_equal(one, other) for one, other in zip(trained, plain, strict=True))


def test_neither_the_order_of_the_images_nor_the_batch_changes_what_is_learned():
    network = lively()
    samples = toy_samples(100, network=network)
    model, check = toy_model(network, samples.images), BoundedActivations(quantile=0.9, train=2)
    wanted = run_learn(check, model, samples)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(2)).tolist()
    for learned, batch in ((samples.take(order), 32), (samples, 7)):
        again = run_learn(check, model, learned, batch=batch)
        assert all(np.array_equal(again[name], bound) for name, bound in wanted.items())
    other = run_learn(check, model, samples, seed=1)
    assert not all(np.array_equal(other[name], bound) for name, bound in wanted.items()), "the seed has no say"


def test_a_network_with_nothing_to_bound_is_refused_in_one_line():
    samples = toy_samples(6)
    with pytest.raises(ExecutionError, match=r"^Gelu: nothing to bound") as refused:
        run_learn(BoundedActivations(), toy_model(rectified(Gelu), samples.images), samples)
    assert "\n" not in str(refused.value)


def context(model, samples, batch=32):
    return Context("prevent.bounded", 0, batch, Shelf(model, samples), model.exact, started=time.monotonic())


def test_stickers_for_both_must_fool_both_and_depend_on_no_neighbour():
    samples = grey([0.5, 0.505, 0.51, 0.515, 0.52])
    light, dark = (toy_model(Alarm(*how), samples.images) for how in ((slice(4), 1.0), (slice(4, None), -1.0)))
    attack = Sticker(light=1, dark=1, side=(0.375,), queries=300)
    searches = light.exact, dark.exact
    images, passes = stickers_for_both(attack, searches, light, samples, context(light, samples))
    for model in (light, dark):
        assert (model.logits(images).argmax(1) == 1).all()
    changed = (images != samples.images).any(1).flatten(1).float().mean(1)
    assert ((changed > 0) & (changed <= attack.eps[-1])).all()
    assert (passes % 2 == 0).all()
    assert ((passes >= 2) & (passes < 600)).all()
    for batch in (1, 3):
        again = stickers_for_both(attack, searches, light, samples, context(light, samples, batch))
        assert torch.equal(again[0], images)
        assert torch.equal(again[1], passes)
    one = Sticker(light=1, dark=0, side=(0.375,), queries=60)
    images, passes = stickers_for_both(one, searches, light, samples, context(light, samples))
    assert (dark.logits(images).argmax(1) == 0).all(), "a light sticker wakes the first alone"
    assert (passes == 120).all()


BOOLS = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=40)


@given(BOOLS)
def test_the_cells_part_the_attacked_images(rows):
    attacked, original, bounded = np.array(rows, dtype=bool).reshape(-1, 3).T
    columns = cell_columns("x", attacked, original, bounded)
    total = sum((column.astype(int) for column in columns.values()), np.zeros(len(rows), dtype=int))
    np.testing.assert_array_equal(total, attacked)
    wanted = [sum(a and not o and not b for a, o, b in rows), sum(a and not o and b for a, o, b in rows)]
    wanted += [sum(a and o and not b for a, o, b in rows), sum(a and o and b for a, o, b in rows)]
    np.testing.assert_array_equal(cell_tally("x", columns).array, wanted)


def test_the_table_has_shares_that_sum_to_one_their_intervals_and_the_exact_test():
    (row,) = cell_table({"stickers": np.array([30, 2, 17, 151])}).rows
    assert row[:2] == ("stickers", 200)
    for cell, count in zip(row[2:6], (30, 2, 17, 151), strict=True):
        interval = stats.binomtest(count, 200).proportion_ci(method="exact")
        assert cell == f"{count / 200:.1%} ({100 * interval.low:.1f} to {100 * interval.high:.1f} %)"
    assert row[6] == pytest.approx(stats.binomtest(2, 19).pvalue, rel=0.05)
    assert sum(float(cell.split("%")[0]) for cell in row[2:6]) == pytest.approx(100)
    (empty,) = cell_table({"stickers": np.zeros(4, dtype=np.int64)}).rows
    assert empty == ("stickers", 0, "-", "-", "-", "-", 1.0)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([30, 2, 17, 151], r"removes 17 of 168 sticker successes \(10.1%, .*\) and opens 2 new ones: a benefit"),
        ([30, 17, 2, 151], r"removes 2 of 153 sticker successes .* opens 17 new ones: harm"),
        ([30, 3, 4, 163], r"removes 4 of 167 .*: no benefit that chance would not explain"),
        ([30, 9, 0, 0], r"removes 0 of 0 sticker successes and opens 9 new ones: harm"),
        ([200, 0, 0, 0], "there is no sticker success to remove"),
        ([0, 0, 0, 0], "there is no sticker success to remove"),
    ],
)
def test_the_verdict_says_benefit_harm_or_neither(cells, words):
    assert re.search(words, verdict("sticker", np.array(cells)))


def test_the_verdict_on_clean_images_says_which_way_they_went():
    assert clean_verdict(np.array([10, 1, 5, 84])).startswith("costs 4.0 points of clean accuracy (89.0% before, 85.0%")
    assert clean_verdict(np.array([10, 5, 1, 84])).startswith("adds 4.0 points of clean accuracy (85.0% before, 89.0%")
    assert clean_verdict(np.array([0, 0, 0, 0])) == "no image was judged"


CHECKS = [configure(BoundedActivations, {**QUICK, "train": 1}, "prevent.bounded", "test")]


def executed(folder, network, shard, **settings):
    from auditkit.assemble import assemble
    from auditkit.engine import execute
    from auditkit.journal import Journal
    from auditkit.progress import Silent
    from auditkit.store import Store

    samples = toy_samples(30, network=network) if not isinstance(network, Gelu) else toy_samples(30)
    chosen = settings_from({"shard": shard, "precision": "float32", **settings})
    bench = set_up(Recipe(network, (samples.images.numpy(), samples.labels.numpy()), chosen))
    store = Store(folder)
    folder.mkdir(exist_ok=True)
    execution = execute(bench, CHECKS, store, Silent(), Journal(folder, {}))
    result, table, *_ = assemble(bench, CHECKS, [], execution, store, [], {}, None)
    return result.check("prevent.bounded").model_dump(exclude={"seconds"}), table


def test_the_engine_gives_the_same_tables_and_numbers_whatever_the_shards(tmp_path):
    network = lively()
    record, table = executed(tmp_path / "a", network, 30)
    assert record["status"] == "done", record["reason"]
    verdicts, cells = record["tables"]
    assert verdicts["rows"][0][0].startswith("bounding 2 of 2 rectifiers (fold, q = 0.9, then 1 epoch of training) ")
    assert [row[0] for row in cells["rows"]] == ["stickers", "noise"]
    other, columns = executed(tmp_path / "b", network, 7, batch=3)
    assert other == record
    for column in table:
        np.testing.assert_array_equal(columns[column], table[column])


def test_a_transformer_is_reported_as_not_run_and_nothing_crashes(tmp_path):
    record, _ = executed(tmp_path, rectified(Gelu), 30)
    assert record["status"] != "done"
    assert "nothing to bound" in record["reason"]


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"no {CIFAR}")
def test_on_a_real_onnx_network_every_site_is_bounded_and_tight_bounds_cost_accuracy():
    settings = settings_from({"limit": 16, "batch": 16, "device": "cpu", "precision": "float32"})
    bench = set_up(Recipe(str(CIFAR / "resnet20.onnx"), str(CIFAR / "images_600.npz"), settings))
    samples = bench.read(0, 16).samples
    check = BoundedActivations(quantile=0.8, queries=2, steps=1)
    lesson = run_learn(check, bench.model, samples.take(range(8)))
    findings = run_check(check, bench.model, samples.take(range(8, 16)), lesson=lesson)
    np.testing.assert_array_equal(findings.tallies["sites"].array, [19, 19])
    assert findings.columns["bounded_clean_correct"].sum() < findings.columns["clean_correct"].sum()
