"""Sanity of the model: each flag is raised by a network that is broken in its way, and none by a healthy one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_networks import (
    KWTA,
    BatchDependent,
    Binarised,
    Detached,
    Randomised,
    Saturated,
    SoftmaxOutput,
    base_network,
    with_activation,
)

from auditkit import Samples
from auditkit.config import settings_from
from auditkit.demo import IMAGES
from auditkit.demo.network import sign_net
from auditkit.findings import flags, metrics
from auditkit.models.preprocess import Preprocessing
from auditkit.models.torch_files import load_module
from auditkit.models.tryout import try_out
from auditkit.preparing import set_up
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.model_sanity import ModelSanity

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
CHECK = ModelSanity(runs=3, draws=5)


def flags_of(model, samples, **context):
    findings = run_check(CHECK, model, samples, **context)
    estimates, _ = metrics(CHECK.spec, findings.columns)
    return {flag.id for flag in flags(CHECK.spec, "sanity.model", estimates)}, estimates


def raised(network, samples=None):
    samples = samples if samples is not None else toy_samples(24, seed=6, network=network)
    return flags_of(toy_model(network, samples.images[:8]), samples)


@pytest.fixture(scope="module")
def signs():
    with np.load(IMAGES) as demo:
        images = torch.from_numpy(demo["x"][:24]).permute(0, 3, 1, 2).contiguous() / 255
        labels = torch.from_numpy(demo["y"][:24]).long()
    return Samples(images, labels, tuple(f"sign-{row}" for row in range(24)))


@pytest.mark.parametrize("network", [LinearModel(classes=4, seed=2), LinearModel(classes=2, seed=1), base_network()])
def test_a_healthy_model_raises_no_flag(network):
    found, estimates = raised(network)
    assert found == set()
    assert estimates["exact_gap"].value == 0


def test_the_network_of_the_demo_raises_no_flag(signs):
    assert raised(sign_net(), signs)[0] == set()


def test_a_network_without_gradients_raises_no_flag_and_has_no_copies():
    found, estimates = raised(Detached())
    assert found == set()
    assert not any(name.startswith(("exact", "search")) for name in estimates)


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
@pytest.mark.parametrize("name", ["resnet20.onnx", "resnet20_int8.onnx"])
def test_a_resnet_raises_no_flag_however_confident_it_is(name):
    settings = settings_from({"limit": 32, "batch": 32, "device": "cpu", "precision": "float32"})
    bench = set_up(Recipe(str(CIFAR / name), str(CIFAR / "images_600.npz"), settings))
    found, estimates = flags_of(bench.model, bench.read(0, 32).samples, search=bench.search)
    assert found == set()
    assert 0.2 < estimates["saturated_scores"].value < 0.6
    assert estimates["exact_gap"].value < 0.02


def test_a_model_that_throws_dice_is_found_out_and_not_taken_for_batch_dependent():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found, estimates = raised(Randomised())
    assert "sanity.random" in found
    assert "sanity.batch_dependent" not in found
    assert estimates["random_scores"].value == 1
    assert 0 < estimates["random_labels"].value < 1


class Rarely(torch.nn.Module):
    """Gives one more answer in seven with its classes swapped."""

    def __init__(self):
        super().__init__()
        self.body = LinearModel(classes=2, seed=1)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        scores = self.body(images)
        return scores.flip(1) if self.calls % 7 == 0 else scores


def test_more_runs_find_rarer_randomness():
    samples = toy_samples(8, network=LinearModel(classes=2, seed=1))
    model = toy_model(Rarely(), samples.images)
    network = model.exact.network.network
    for runs, wanted in ((2, False), (9, True)):
        network.calls = 0
        fresh = replace(model, deployed=network, exact=None)
        columns = run_check(ModelSanity(runs=runs, draws=1), fresh, samples, search=None).columns
        assert columns["random_label"].any() == wanted


def test_a_model_that_normalises_over_the_batch_depends_on_it():
    found, estimates = raised(BatchDependent())
    assert found == {"sanity.batch_dependent"}
    assert estimates["batch_dependent"].value == 1
    assert estimates["random_scores"].value == 0


class InPairs(torch.nn.Module):
    """Mixes the rows of batches of exactly two; the core, which fills batches up, never sees it."""

    def __init__(self):
        super().__init__()
        self.body = LinearModel(classes=4, seed=2)

    def forward(self, images):
        scores = self.body(images)
        return scores.mean(0, keepdim=True).expand(2, -1) if len(images) == 2 else scores


def test_a_batch_of_two_is_asked_about_as_it_is():
    samples = toy_samples(24, seed=6)
    model = toy_model(InPairs(), samples.images)
    assert model.batching.fixed is None
    columns = run_check(CHECK, model, samples).columns
    assert columns["batch_dependent"].all()


@pytest.mark.parametrize(("size", "wanted"), [(1e-5, False), (1e-2, True)])
def test_company_may_change_the_last_digits_only(size, wanted):
    class Nearly(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = LinearModel(classes=4, seed=2)

        def forward(self, images):
            return self.body(images) * (1 + size * (len(images) == 1))

    samples = toy_samples(24, seed=6)
    columns = run_check(CHECK, toy_model(Nearly(), samples.images), samples).columns
    assert columns["batch_dependent"].any() == wanted


def test_half_precision_may_differ_by_its_own_roundings():
    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = LinearModel(classes=4, seed=2)

        def forward(self, images):
            return (self.body(images) * (1 + 0.004 * (len(images) == 1))).half()

    samples = toy_samples(24, seed=6)
    assert not run_check(CHECK, toy_model(Half(), samples.images), samples).columns["batch_dependent"].any()


def test_probabilities_are_told_from_logits_and_not_complained_about_once_stated():
    network, samples = SoftmaxOutput(base_network()), toy_samples(24, seed=6)
    found, estimates = raised(network, samples)
    assert found == {"sanity.probabilities"}
    assert estimates["probability_scores"].value == 1
    cpu = torch.device("cpu")
    stated = try_out(load_module(network.eval(), cpu), Preprocessing(outputs="probabilities"), samples.images, cpu, 32)
    assert flags_of(stated, samples)[0] == set()


class Centred(torch.nn.Module):
    """Logits that are shifted until they sum to 1."""

    def __init__(self):
        super().__init__()
        self.body = LinearModel(classes=4, seed=2)

    def forward(self, images):
        scores = self.body(images)
        return scores - scores.mean(1, keepdim=True) + 0.25


class Gated(torch.nn.Module):
    """A sigmoid for each class: scores between 0 and 1 that do not sum to 1."""

    def __init__(self):
        super().__init__()
        self.body = LinearModel(classes=4, seed=2)

    def forward(self, images):
        return self.body(images).sigmoid()


@pytest.mark.parametrize("network", [Centred(), Gated()])
def test_scores_that_are_probabilities_in_one_way_only_are_none(network):
    assert raised(network)[1]["probability_scores"].value == 0


def test_huge_scores_saturate_the_softmax():
    found, estimates = raised(Saturated())
    assert found == {"sanity.saturated_scores"}
    assert estimates["saturated_scores"].value == 1
    assert estimates["certain_mistakes"].value == pytest.approx(3 / 24)


@pytest.mark.parametrize("activation", [Binarised, lambda: KWTA(0.02)])
def test_activations_that_jump_are_unstable(signs, activation):
    found, estimates = raised(with_activation(sign_net(), activation), signs)
    assert found == {"sanity.unstable"}
    assert estimates["noise_flips"].value > 0.3


class Step(torch.nn.Module):
    """Class 1 where the first pixel is above a half, by a score whose margin is 1 on either side."""

    def forward(self, images):
        above = (images[:, 0, 0, 0] > 0.5).float()
        return torch.stack([1 - above, above], 1)


def test_noise_is_drawn_from_four_grey_levels_on_either_side():
    samples = toy_samples(40, seed=1)
    samples.images[:, 0, 0, 0] = 0.5 + torch.linspace(-6, 6, 40) / 255
    columns = run_check(ModelSanity(runs=2, draws=200), toy_model(Step(), samples.images), samples).columns
    near = (samples.images[:, 0, 0, 0] - 0.5).abs() < 3.5 / 255
    far = (samples.images[:, 0, 0, 0] - 0.5).abs() > 4.01 / 255
    assert columns["noise_flips"][near.numpy()].all()
    assert not columns["noise_flips"][far.numpy()].any()
    # A flip turns the margin from 1 to -1: the change counts as no more than 1.
    at_middle = int((samples.images[:, 0, 0, 0] - 0.5).abs().argmin())
    assert columns["unstable_margin"][at_middle] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("which", ["exact", "search"])
def test_a_copy_that_is_another_model_is_found_out(which):
    network, other = base_network(), base_network(seed=7)
    samples = toy_samples(24, seed=6, network=network)
    model, stranger = toy_model(network, samples.images), toy_model(other, samples.images)
    if which == "exact":
        found, estimates = flags_of(replace(model, exact=stranger.exact), samples, search=model.exact)
    else:
        found, estimates = flags_of(model, samples, search=stranger.exact)
    assert found == {f"sanity.{which}_disagrees"}
    with torch.no_grad():
        wanted = float((network(samples.images).argmax(1) != other(samples.images).argmax(1)).float().mean())
    assert estimates[f"{which}_disagrees"].value == pytest.approx(wanted)
    assert estimates[f"{which}_gap"].value > 0.1


def test_the_account_holds_every_pass():
    samples = toy_samples(9)
    model = toy_model(LinearModel(), samples.images)
    assert (run_check(ModelSanity(runs=4, draws=6), model, samples).forwards == 4 + 6 + 6 + 2).all()
    assert (run_check(ModelSanity(runs=4, draws=6), model, samples, search=None).forwards == 4 + 6 + 6 + 1).all()


def test_the_check_keeps_the_contract():
    assert_contract(ModelSanity)
    assert_contract(ModelSanity(runs=2, draws=2), network=base_network())
    assert_contract(ModelSanity, options=ModelSanity.spec.presets["smoke"], network=base_network())
