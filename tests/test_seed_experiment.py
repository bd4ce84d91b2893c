"""The seed experiment compares what it says it compares: two networks that differ in their activations only."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from auditkit.bounding import BoundedLeakyReLU
from auditkit.testing import LinearModel, toy_samples

ROOT = Path(__file__).parents[1]
GTSRB = ROOT.parent / "shared" / "data" / "gtsrb"
# The tests also run beside an installed wheel.
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)

with pytest.MonkeyPatch.context() as path:
    path.syspath_prepend(ROOT)
    experiment = importlib.import_module("benchmarks.seed_experiment")
    pairs = importlib.import_module("benchmarks.sign_pairs")
    gtsrb = importlib.import_module("benchmarks.gtsrb")

TALK = {name: way.talk for name, way in pairs.WAYS.items()}


def fresh(seed, classes=3):
    return pairs.fresh_network(classes, torch.Generator().manual_seed(seed))


def cells(none, bounded_only, original_only, both):
    original = [False] * (none + bounded_only) + [True] * (original_only + both)
    bounded = [False] * none + [True] * bounded_only + [False] * original_only + [True] * both
    return experiment.FourCells.of(np.array(original), np.array(bounded))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_every_image_is_in_one_cell_and_the_cells_sum_to_one(pair):
    original, bounded = np.array(pair).T
    found = experiment.FourCells.of(original, bounded)
    assert found.counts == tuple(
        pair.count(cell) for cell in ((False, False), (False, True), (True, False), (True,) * 2)
    )
    assert sum(share.value for share in found.shares) == pytest.approx(1)
    assert all(share.low <= share.value <= share.high for share in found.shares)
    assert found.original.value == pytest.approx(original.mean())
    assert found.bounded.value == pytest.approx(bounded.mean())


def test_the_cells_of_the_talk_sum_to_one_hundred():
    assert all(sum(talk) == 100 for talk in TALK.values())


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (cells(3, 0, 91, 6), "claim held here"),
        (cells(20, 2, 30, 48), "only the direction held"),
        (cells(20, 5, 5, 70), "did not hold here: no difference"),
        (cells(20, 30, 2, 48), "did not hold here: the bounded network is the weaker one"),
    ],
)
def test_the_sentence_says_no_more_than_the_table(found, said):
    assert said in found.verdict(TALK["two"])


def test_the_p_value_rests_on_the_images_that_tell_the_networks_apart():
    assert cells(100, 0, 3, 400).p_value == pytest.approx(0.25)
    assert cells(0, 3, 0, 0).p_value == pytest.approx(0.25)


def test_the_networks_begin_equal_but_for_their_activations():
    original = fresh(1)
    before = {name: values.clone() for name, values in original.state_dict().items()}
    bounded = pairs.with_bounds(original, 2.0, 0.01)
    shared = {name: values for name, values in bounded.state_dict().items() if ".upper." not in name}
    assert shared.keys() == before.keys()
    assert all(torch.equal(values, before[name]) for name, values in shared.items())
    assert all(torch.equal(values, before[name]) for name, values in original.state_dict().items())
    kinds = [(type(one), type(other)) for one, other in zip(original.features, bounded.features, strict=True)]
    differing = {pair for pair in kinds if pair[0] is not pair[1]}
    assert differing == {(nn.ReLU, BoundedLeakyReLU)}
    assert not any(isinstance(module, nn.ReLU) for module in bounded.modules())


def test_without_a_lower_slope_and_with_a_bound_out_of_reach_nothing_differs():
    original = fresh(2).eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pairs.with_bounds(original, 1e6, 0.0)(images), original(images))
    assert not torch.equal(pairs.with_bounds(original, 1e6, 0.01)(images), original(images))
    assert not torch.equal(pairs.with_bounds(original, 0.5, 0.0)(images), original(images))


def test_a_seed_means_the_same_weights_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    one, same, other = fresh(3).state_dict(), fresh(3).state_dict(), fresh(4).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.isfinite(values).all() for values in one.values())
    assert all(torch.equal(values, same[name]) for name, values in one.items())
    assert not torch.equal(one["features.0.weight"], other["features.0.weight"])


def test_a_seed_means_the_same_training_and_bounds_learn_in_it(capsys):
    images = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(12) % 3
    trained = []
    for _ in range(2):
        network = pairs.with_bounds(fresh(5), 1.0, 0.01)
        gtsrb.fit(network, images, labels, epochs=2, generator=torch.Generator().manual_seed(6), batch=4)
        bounds = pairs.settled(network)
        trained.append((network.state_dict(), bounds))
    (one, bounds), (same, _) = trained
    assert all(torch.equal(values, same[name]) for name, values in one.items())
    assert len(bounds) == 5
    assert all(0 < bound != 1 for bound in bounds)
    assert "loss" in capsys.readouterr().out


def test_the_attack_is_the_same_each_time_and_reports_every_image():
    """Two networks are only compared fairly where an image meets the same random stickers on both."""
    network = LinearModel(classes=3, seed=1)
    samples = toy_samples(10, seed=2, network=network, wrong_every=11)
    signs = pairs.Signs(samples.images, samples.labels)
    one, same = (experiment.attacked(network, signs, queries=20, seed=0) for _ in range(2))
    assert one.correct.all()
    assert len(one.fooled) == 10
    assert np.array_equal(one.fooled, same.fooled)
    assert np.array_equal(one.queries, same.queries, equal_nan=True)
    assert np.array_equal(np.isnan(one.queries), ~one.fooled)


def outcome():
    """Of three images: the stop sign withstands both networks, one speed limit falls to both, one to the original."""
    everywhere = np.ones(3, dtype=bool)
    queries = (np.array([np.nan, 3, 40]), np.array([np.nan, 12, np.nan]))
    results = tuple(experiment.Attacked(everywhere, ~np.isnan(found), ~everywhere, found) for found in queries)
    share = experiment.proportion(1, 2)
    return experiment.Outcome(
        way=pairs.WAYS["two"],
        learned_from=9,
        steps=8,
        bounds=(1.5,),
        clean=(share, share),
        labels=np.array([0, 1, 1]),
        attacked=results,
    )


def test_what_is_said_of_classes_and_of_few_queries_follows_from_the_images():
    found = outcome()
    assert found.cells.counts == (1, 0, 1, 1)
    values = {name: tuple(share.value for share in pair) for name, pair in found.by_class.items()}
    assert values == {"stop": (0, 0), "speed limit 50": (1, 0.5)}
    assert tuple(share.value for share in found.within(10)) == pytest.approx((1 / 3, 0))
    assert tuple(share.value for share in found.within(100)) == pytest.approx((2 / 3, 1 / 3))


def test_the_table_and_the_file_say_the_same():
    options = SimpleNamespace(seed=0, bound=3.0, lower_slope=0.01, queries=500)
    printed = experiment.report(outcome(), options.queries)
    stored = json.loads(json.dumps(experiment.as_json(outcome(), options)))
    assert stored["verdict"] in printed
    assert sum(cell["value"] for cell in stored["cells"].values()) == pytest.approx(1)
    for name, cell in stored["cells"].items():
        row = next(line for line in printed.splitlines() if line.startswith(f"{name} "))
        assert f"{cell['value']:.1%}".replace("%", " %") in row
        assert row.endswith(f" {cell['talk'] * 100:g} %")


def test_only_images_that_both_networks_get_right_are_attacked():
    right = torch.tensor([[True, True, False, True, True], [True, False, True, True, True]])
    assert experiment.both_right(right, 5, seed=0).tolist() == [0, 3, 4]
    some = experiment.both_right(right, 2, seed=0)
    assert len(set(some.tolist())) == 2
    assert set(some.tolist()) < {0, 3, 4}
    assert torch.equal(some, experiment.both_right(right, 2, seed=0))


@pytest.mark.skipif(not GTSRB.is_dir(), reason="the traffic signs are not here")
def test_no_image_is_learned_from_and_attacked():
    for way in pairs.WAYS.values():
        learning, held_out = pairs.signs_for(way, GTSRB)
        assert len(held_out) >= 200
        assert set(learning.labels.tolist()) == set(held_out.labels.tolist()) == set(range(len(way.classes)))
        seen = {image.numpy().tobytes() for image in learning.images}
        assert not any(image.numpy().tobytes() in seen for image in held_out.images)
