"""Auto-PGD: the published schedule and formulas, inside the budget, and right where the answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auditkit.config import settings_from
from auditkit.preparing import set_up
from auditkit.queries import Queries
from auditkit.samples import Samples
from auditkit.testing import (
    LinearModel,
    assert_contract,
    linear_distance,
    run_check,
    toy_model,
    toy_origin,
    toy_samples,
)
from auditkit.threat import allowed, distance
from auditkit.workbench import Recipe
from auditkit_plugins.apgd import APGD

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
LOSSES = ("both", "cross_entropy", "margin", "dlr", "targeted_margin", "targeted_dlr")


class Pixels(nn.Module):
    """A network whose logits are the pixels of a one-line grey image, stretched and shifted."""

    def __init__(self, stretch=1.0, shift=0.0):
        super().__init__()
        self.stretch, self.shift = stretch, shift

    def forward(self, images):
        return self.stretch * images.flatten(1) + self.shift


def curved(seed=0, classes=5):
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, classes))
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator))
    return network


def driven(attack, network, samples, eps):
    """Return every state, for rows that are never stopped."""
    model = toy_model(network, samples.images)
    state = attack.start(toy_origin(attack, model, samples, eps))
    states, budgets = [state], torch.full((len(samples),), eps)
    for _ in range(attack.steps):
        queries = Queries(model.exact, model, samples.images, samples.labels, budgets, attack.norm)
        state = attack.step(queries, state)
        states.append(state)
    return states


def pixels(*rows):
    images = torch.tensor(rows).unsqueeze(1).unsqueeze(1)
    ids = tuple(f"line-{row}" for row in range(len(rows)))
    return Samples(images, torch.zeros(len(rows), dtype=torch.int64), ids)


def loss_of(loss, rows, targets=9, restart=0, network=None):
    """Return what the attack takes to be the loss of these logits, label 0, without moving anything."""
    network = network or Pixels()
    samples, attack = pixels(*rows), APGD(loss=loss, steps=1, targets=targets)
    model = toy_model(network, samples.images)
    origin = toy_origin(attack, model, samples, 0.0)
    state = attack.start(replace(origin, restart=torch.full_like(samples.labels, restart)))
    queries = Queries(model.exact, model, samples.images, samples.labels, torch.zeros(len(rows)), "linf")
    return attack.step(queries, state).climb.loss


@pytest.mark.parametrize(("classes", "norm"), [(2, "linf"), (4, "l2")])
@pytest.mark.parametrize("loss", LOSSES)
def test_it_keeps_the_contract(classes, loss, norm):
    network = LinearModel(classes=classes, shape=(1, 4, 4), seed=3)
    samples = toy_samples(7, shape=(1, 4, 4), network=network, wrong_every=4)
    options = {"eps": "0.02, 0.05", "norm": norm, "loss": loss, "steps": 4, "starts": 2, "targets": 3}
    assert_contract(APGD, options=options, network=network, samples=samples)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["targeted_margin", "targeted_dlr"])
@pytest.mark.parametrize("classes", [2, 3, 4, 6])
def test_aiming_at_every_class_fools_a_linear_model_exactly_beyond_its_distance(classes, loss, norm):
    network = LinearModel(classes=classes, shape=(3, 4, 4), seed=classes)
    samples = toy_samples(16, shape=(3, 4, 4), network=network, wrong_every=99)
    model = toy_model(network, samples.images)
    away = linear_distance(network, samples.images, samples.labels, norm)
    eps = float(away.median()) * 1.001
    attack = APGD(eps=(eps,), norm=norm, loss=loss, steps=60, targets=classes - 1)
    fooled = run_check(attack, model, samples).columns["fooled"]
    near = (away < 0.995 * eps).numpy()
    far = (away > eps).numpy()
    assert near.sum() >= 6
    assert far.sum() >= 6
    assert fooled[near].all()
    assert not fooled[far].any()


@pytest.mark.parametrize("loss", ["both", "cross_entropy", "margin", "dlr"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_untargeted_loss_fools_two_classes_exactly_beyond_their_distance(norm, loss):
    network = LinearModel(classes=2, shape=(3, 4, 4), seed=8)
    samples = toy_samples(16, shape=(3, 4, 4), network=network, wrong_every=99)
    away = linear_distance(network, samples.images, samples.labels, norm)
    eps = float(away.median()) * 1.001
    attack = APGD(eps=(eps,), norm=norm, loss=loss, steps=60)
    fooled = run_check(attack, toy_model(network, samples.images), samples).columns["fooled"]
    assert fooled[(away < 0.995 * eps).numpy()].all()
    assert not fooled[(away > eps).numpy()].any()


@pytest.mark.parametrize(("loss", "targets", "wanted"), [("margin", 9, 3), ("targeted_dlr", 4, 12), ("dlr", 1, 3)])
def test_a_targeted_loss_gets_its_starts_for_each_target(loss, targets, wanted):
    assert APGD(loss=loss, starts=3, targets=targets).restarts == wanted


def test_a_search_aims_at_the_classes_from_the_likeliest_down_and_then_begins_again():
    network, attack = LinearModel(classes=5, shape=(1, 4, 4)), APGD(loss="targeted_margin", targets=3)
    samples = toy_samples(4, shape=(1, 4, 4), network=network)
    origin = toy_origin(attack, toy_model(network, samples.images), samples, 0.1)
    ranking = [[c for c in row.argsort(descending=True).tolist() if c != label]
               for row, label in zip(origin.logits, samples.labels.tolist(), strict=True)]  # fmt: skip
    for restart, place in enumerate((0, 1, 2, 0, 1)):
        state = attack.start(replace(origin, restart=torch.full_like(samples.labels, restart)))
        assert state.targets.tolist() == [row[place] for row in ranking]
    many = replace(attack, targets=9).start(replace(origin, restart=torch.full_like(samples.labels, 4)))
    assert many.targets.tolist() == [row[0] for row in ranking], "there are four other classes"


def published_checkpoints(steps):
    """w_j = p_j N of the paper's section 3.1, in whole hundredths."""
    at = [0, 22]
    while at[-1] + max(at[-1] - at[-2] - 3, 6) < 100:
        at.append(at[-1] + max(at[-1] - at[-2] - 3, 6))
    return [share * steps // 100 for share in at[1:]]


def test_steps_are_halved_at_the_published_checkpoints():
    network = LinearModel(classes=3)
    # With rho = 1 every climb is a poor one.
    states = driven(APGD(rho=1.0, give_up=False), network, toy_samples(3, network=network), 0.1)
    sizes = [float(state.climb.size[0]) for state in states]
    assert published_checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    halved = [step for step in range(100) if sizes[step + 1] < sizes[step]]
    assert halved == published_checkpoints(100)
    assert sizes[0] == pytest.approx(0.2)
    assert sizes[-1] == pytest.approx(0.2 / 2 ** len(halved))


def test_a_climb_that_stands_still_is_halved_only_from_the_second_checkpoint_on():
    network = LinearModel(classes=2, seed=5)
    samples = toy_samples(3, network=network, wrong_every=99)
    # The corner of the ball is reached at once; with rho = 0 the few steps that rose suffice at the first checkpoint.
    states = driven(APGD(rho=0.0, loss="margin", give_up=False), network, samples, 0.01)
    assert float(states[40].climb.size[0]) == pytest.approx(0.02)
    assert float(states[42].climb.size[0]) == pytest.approx(0.01)


def plainly(network, image, label, start, eps, norm, steps):
    """Auto-PGD as the paper prints it (Algorithm 1), for one image and the margin; return all points."""

    def look(point):
        point = point.clone().requires_grad_()
        logits = network(point)[0]
        loss = torch.cat([logits[:label], logits[label + 1 :]]).max() - logits[label]
        return float(loss.detach()), torch.autograd.grad(loss, point)[0]

    def into_ball(point):
        offset = point - image
        if norm == "linf":
            return (image + offset.clamp(-eps, eps)).clamp(0, 1)
        return (image + offset * min(1.0, eps / max(float(offset.norm()), 1e-12))).clamp(0, 1)

    size, at, before = 2 * eps, start, start
    points, highest, top, top_gradient = [start], -float("inf"), start, None
    rises, last, at_checkpoint, halved_before, checkpoint = 0, None, None, True, 0
    checkpoints = published_checkpoints(steps)
    for step in range(steps):
        loss, gradient = look(at)
        rises += last is not None and loss > last
        last = loss
        if loss > highest:
            highest, top, top_gradient = loss, at, gradient
        at_checkpoint = highest if at_checkpoint is None else at_checkpoint
        if step in checkpoints:
            halve = rises <= 0.75 * (step - checkpoint) or (not halved_before and at_checkpoint == highest)
            if halve:
                size, before, at, gradient, last = size / 2, at, top, top_gradient, highest
            halved_before, at_checkpoint, rises, checkpoint = halve, highest, 0, step
        unit = gradient.sign() if norm == "linf" else gradient / gradient.norm()
        ahead = into_ball(at + size * unit)
        share = 0.75 if step else 1.0
        moved = into_ball(at + share * (ahead - at) + (1 - share) * (at - before))
        before, at = at, moved
        points.append(at)
    return points


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.8)])
def test_every_point_is_that_of_the_printed_algorithm(norm, eps):
    network = curved()
    samples = toy_samples(4, shape=(3, 4, 4), network=network, wrong_every=99)
    states = driven(APGD(norm=norm, loss="margin", give_up=False), network, samples, eps)
    for row in range(len(samples)):
        image, label, start = samples.images[row : row + 1], int(samples.labels[row]), states[0].images[row : row + 1]
        points = plainly(network, image, label, start, eps, norm, 100)
        # Three checkpoints; later on, rounding decides the sign of gradients that are almost zero.
        for step, point in enumerate(points[:61]):
            assert torch.allclose(states[step].images[row : row + 1], point, atol=2e-5), (row, step)


def test_the_difference_of_logits_ratio_is_what_the_hand_computes():
    row = (0.9, 0.4, 0.2, 0.1)
    assert float(loss_of("dlr", [row])) == pytest.approx(-(0.9 - 0.4) / (0.9 - 0.2))
    wrong = (0.3, 0.8, 0.2, 0.1)
    assert float(loss_of("dlr", [wrong])) == pytest.approx((0.8 - 0.3) / (0.8 - 0.2))
    for restart, logit in enumerate((0.4, 0.2, 0.1)):
        wanted = -(0.9 - logit) / (0.9 - (0.2 + 0.1) / 2)
        assert float(loss_of("targeted_dlr", [row], restart=restart)) == pytest.approx(wanted)


def test_few_classes_have_a_ratio_too():
    assert float(loss_of("dlr", [(0.9, 0.4)])) == pytest.approx(-0.5)
    assert float(loss_of("targeted_dlr", [(0.9, 0.4)])) == pytest.approx(-0.5)
    assert float(loss_of("dlr", [(0.9, 0.4, 0.2)])) == pytest.approx(-0.5 / 0.7)
    assert float(loss_of("targeted_dlr", [(0.9, 0.4, 0.2)])) == pytest.approx(-0.5 / 0.7)


LOGITS = st.lists(st.integers(0, 16).map(lambda number: number / 16), min_size=4, max_size=4)


@settings(max_examples=25, deadline=None)
@given(row=LOGITS, loss=st.sampled_from(["dlr", "targeted_dlr"]), stretch=st.sampled_from([0.25, 2.0, 1024.0]),
       shift=st.sampled_from([-8.0, 0.0, 64.0]))  # fmt: skip
def test_the_ratio_knows_neither_shift_nor_scale(row, loss, stretch, shift):
    # Sixteenths, powers of two and small shifts: the logits themselves are then exact. Of a row that is fooled already
    # the denominator may be zero alone, and a bound takes its place.
    right = tuple(sorted(row, reverse=True))
    plain, other = loss_of(loss, [right]), loss_of(loss, [right], network=Pixels(stretch, shift))
    assert torch.allclose(plain, other, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(classes=st.integers(2, 5), level=st.sampled_from([0.0, 0.5, 1.0]), loss=st.sampled_from(LOSSES),
       norm=st.sampled_from(["linf", "l2"]), eps=st.sampled_from([0.0, 0.1]))  # fmt: skip
def test_logits_that_tie_give_no_nan(classes, level, loss, norm, eps):
    for state in driven(APGD(loss=loss, norm=norm, steps=5), Pixels(), pixels((level,) * classes), eps):
        assert state.images.isfinite().all()
        assert state.climb.size.isfinite().all()
        assert not state.climb.loss.isnan().any()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("linf", 0.9), ("l2", 0.5), ("l2", 30.0)])
@pytest.mark.parametrize("loss", ["both", "targeted_dlr"])
def test_it_never_leaves_its_ball_nor_the_range(norm, eps, loss):
    network = LinearModel(classes=4)
    samples = toy_samples(6, network=network)
    images = samples.images.clone()
    images[0], images[1] = 0.0, 1.0
    images[2, :, ::2] = 0.0
    for state in driven(APGD(norm=norm, loss=loss), network, replace(samples, images=images), eps):
        assert allowed(norm, eps, images, state.images).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_cold_row_starts_at_the_edge_of_the_ball_and_a_warm_one_where_it_is_told(norm):
    network, attack = LinearModel(), APGD(norm=norm)
    samples = toy_samples(4, network=network)
    origin = toy_origin(attack, toy_model(network, samples.images), samples, 0.05)
    points = (samples.images + 0.001).clamp(0, 1)
    warm = torch.tensor([True, False, True, False])
    state = attack.start(replace(origin, points=points, warm=warm))
    assert torch.equal(state.images[warm], points[warm])
    assert torch.allclose(distance(norm, samples.images, state.images)[~warm], torch.tensor(0.05), atol=1e-6)
    other = attack.start(toy_origin(attack, toy_model(network, samples.images), samples, 0.05, seed=1))
    assert not torch.equal(state.images[~warm], other.images[~warm])


def test_one_pass_each_way_a_step_and_the_last_point_is_judged_as_well():
    network = LinearModel(classes=2, seed=6)
    samples = toy_samples(5, network=network, wrong_every=99)
    model = toy_model(network, samples.images)
    away = linear_distance(network, samples.images, samples.labels, "linf")
    hopeless = run_check(APGD(eps=(float(away.min()) * 0.5,), steps=7, give_up=False), model, samples)
    assert (hopeless.backwards == 7).all()
    assert (hopeless.forwards == 1 + 7 + 1).all()
    # A single step ends in the corner of the ball, which no query of the search has seen.
    assert run_check(APGD(eps=(float(away.max()) * 1.01,), steps=1), model, samples).columns["fooled"].all()


@settings(max_examples=8, deadline=None)
@given(loss=st.sampled_from(LOSSES), norm=st.sampled_from(["linf", "l2"]), batch=st.sampled_from([1, 7]),
       give_up=st.booleans(), seed=st.integers(0, 3))  # fmt: skip
def test_the_batch_changes_nothing(loss, norm, batch, give_up, seed):
    network = curved(seed)
    samples = toy_samples(10, seed=seed, shape=(3, 4, 4), network=network, wrong_every=99)
    model = toy_model(network, samples.images)
    eps = (0.02, 0.05) if norm == "linf" else (0.1, 0.25)
    attack = APGD(eps=eps, norm=norm, loss=loss, steps=24, targets=2, give_up=give_up)
    wanted, got = (run_check(attack, model, samples, batch=size) for size in (64, batch))
    for name, column in wanted.columns.items():
        np.testing.assert_array_equal(column, got.columns[name], err_msg=name)
    np.testing.assert_array_equal(wanted.backwards, got.backwards)


@pytest.mark.parametrize("loss", LOSSES)
def test_giving_up_saves_passes_and_no_verdict(loss):
    network = curved(2)
    samples = toy_samples(16, seed=3, shape=(3, 4, 4), network=network, wrong_every=99)
    model = toy_model(network, samples.images)
    attack = APGD(eps=(0.01, 0.05, 0.1), loss=loss, targets=4)
    patient, quick = (run_check(replace(attack, give_up=early), model, samples) for early in (False, True))
    for eps in ("0.01", "0.05", "0.1"):
        np.testing.assert_array_equal(quick.columns[f"fooled@{eps}"], patient.columns[f"fooled@{eps}"])
    assert patient.columns["fooled@0.1"].any()
    assert patient.columns["robust@0.01"].any()
    assert quick.backwards.sum() < 0.5 * patient.backwards.sum()


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
@pytest.mark.parametrize("loss", ["both", "targeted_margin"])
def test_giving_up_costs_no_verdict_of_a_trained_network_and_saves_most_passes(loss):
    recipe = Recipe(str(CIFAR / "resnet2b.onnx"), str(CIFAR / "images_600.npz"), settings_from({"limit": 32}))
    bench = set_up(recipe)
    samples = bench.read(0, 32).samples
    attack = APGD(loss=loss, targets=2)
    patient, quick = (run_check(replace(attack, give_up=early), bench.model, samples) for early in (False, True))
    np.testing.assert_array_equal(quick.columns["fooled"], patient.columns["fooled"])
    robust = patient.columns["robust"]
    assert robust.any()
    assert quick.backwards[robust].mean() < 0.5 * patient.backwards[robust].mean()
