"""The driver: the deployed model judges, the budget holds, and batches and order change nothing."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from auditkit import ATTACK_METRICS, Attack, Findings, FlagRule, Metric, Spec
from auditkit.context import TimeLimitError
from auditkit.models.base import Batching, Differentiable
from auditkit.models.preprocess import Preprocessed, Preprocessing
from auditkit.models.torch_files import load_module
from auditkit.models.tryout import try_out
from auditkit.testing import LinearModel, assert_contract, linear_distance, run_check, toy_model, toy_samples
from auditkit_plugins.fgsm import FGSM
from auditkit_plugins.pgd import PGD
from auditkit_plugins.random_noise import GaussianNoise, UniformNoise

GREY = 1 / 255


@pytest.fixture(scope="module")
def network():
    return LinearModel(classes=4, seed=3)


@pytest.fixture(scope="module")
def samples(network):
    return toy_samples(30, seed=5, network=network)


@pytest.fixture(scope="module")
def model(network, samples):
    return toy_model(network, samples.images)


@pytest.fixture(scope="module")
def pair():
    """Two classes: one gradient step is then the best there is."""
    network = LinearModel(classes=2, seed=1)
    samples = toy_samples(40, seed=2, network=network)
    return network, samples, toy_model(network, samples.images)


def spec(name="noise.made_up"):
    return Spec(id=name, title="t", why="w", metrics=ATTACK_METRICS)


def searching_with(network):
    return Differentiable(Preprocessed(network, Preprocessing()).requires_grad_(False), "another network")


def wants(findings, wanted, decided, column="fooled"):
    assert decided.sum() >= 0.8 * len(decided)
    assert wanted.any()
    assert not wanted.all()
    np.testing.assert_array_equal(findings.columns[column][decided], wanted[decided])


class TestClosedForms:
    """On a linear model the outcome of an attack is a formula."""

    @pytest.mark.parametrize("eps", [0.5 * GREY, GREY, 2 * GREY])
    def test_one_gradient_step_fools_exactly_those_that_can_be_fooled(self, pair, eps):
        network, samples, model = pair
        least = linear_distance(network, samples.images, samples.labels, "linf").numpy()
        findings = run_check(FGSM(eps=(eps,)), model, samples)
        correct = least > 0
        np.testing.assert_array_equal(findings.columns["clean_correct"], correct)
        wants(findings, correct & (least < eps), np.abs(least - eps) > 1e-3 * eps)

    @pytest.mark.parametrize(("norm", "eps"), [("linf", GREY), ("l2", 0.07)])
    def test_pgd_fools_exactly_those_that_can_be_fooled(self, network, model, samples, norm, eps):
        least = linear_distance(network, samples.images, samples.labels, norm).numpy()
        findings = run_check(PGD(eps=(eps,), norm=norm, steps=30, restarts=2), model, samples)
        wants(findings, (least > 0) & (least < eps), (least < 0.9 * eps) | (least > 1.0001 * eps))
        moved = findings.columns["distance"][findings.columns["fooled"]]
        assert (moved <= eps * 1.0001).all()
        assert (moved >= least[findings.columns["fooled"]] * 0.999).all()

    def test_several_budgets_give_for_each_what_it_gives_alone_and_never_fall(self, pair):
        _, samples, model = pair
        budgets = (0.5 * GREY, GREY, 1.5 * GREY, 2 * GREY, 4 * GREY)
        together = run_check(PGD(eps=budgets, steps=5), model, samples).columns
        names = ["0.5/255", "1/255", "1.5/255", "2/255", "4/255"]
        before = np.zeros(len(samples), dtype=bool)
        for name, eps in zip(names, budgets, strict=True):
            alone = run_check(PGD(eps=(eps,), steps=5), model, samples).columns
            np.testing.assert_array_equal(together[f"fooled@{name}"], alone["fooled"])
            np.testing.assert_array_equal(together[f"robust@{name}"], alone["robust"])
            assert (together[f"fooled@{name}"] | ~before).all()
            before = together[f"fooled@{name}"]
        np.testing.assert_array_equal(together["fooled"], before)
        assert before.any()


@dataclass(frozen=True)
class State:
    images: Tensor
    labels: Tensor
    eps: Tensor
    step: Tensor
    given_up: Tensor


@dataclass(frozen=True)
class Scripted(Attack):
    """An attack on the shortest way to another class, whose manners the tests choose."""

    spec: ClassVar[Spec] = spec()
    network: ClassVar[LinearModel]
    eps: tuple[float, ...] = (0.1,)
    rounds: int = 3

    @property
    def norm(self):
        return "linf"

    @property
    def steps(self):
        return self.rounds

    def start(self, origin):
        labels = origin.labels
        return State(origin.images, labels, origin.eps, torch.zeros_like(labels), labels < 0)

    def toward(self, images, labels, length):
        """Move every colour value by `length` toward the class that is nearest in this direction."""
        weight = self.network.weight.detach()
        target = (labels + 1) % len(weight)
        return images + (weight[target] - weight[labels]).sign().view_as(images) * length


def scripted(network, step, **options):
    """Return a scripted attack whose `step(self, model, state)` is given."""
    kind = dataclass(frozen=True)(type("Made", (Scripted,), {"network": network, "step": step, "__annotations__": {}}))
    return kind(**options)


class TestTheJudge:
    """The core decides what counts; the author of an attack cannot."""

    def test_leaving_the_budget_gains_nothing_and_is_counted(self, network, model, samples):
        def lie(self, model, state):
            far = self.toward(state.images, state.labels, 0.2)
            model.logits(far)
            return replace(state, images=far)

        findings = run_check(scripted(network, lie, eps=(GREY / 100,), rounds=1), model, samples).columns
        correct = findings["clean_correct"]
        assert not findings["fooled"].any()
        np.testing.assert_array_equal(findings["robust"], correct)
        assert (findings["overstepped"][correct] == 2).all()
        assert (findings["overstepped"][~correct] == 0).all()

    def test_a_success_outside_the_budget_does_not_hide_an_honest_one(self, network, model, samples):
        def both(self, model, state):
            model.logits(self.toward(state.images, state.labels, 0.2))
            model.logits(self.toward(state.images, state.labels, state.eps.view(-1, 1, 1, 1)))
            return state

        findings = run_check(scripted(network, both), model, samples).columns
        correct = findings["clean_correct"]
        np.testing.assert_array_equal(findings["fooled"], correct)
        assert (findings["steps"][correct] == 1).all()
        assert (findings["overstepped"][correct] == 1).all()

    def test_leaving_the_range_of_colours_gains_nothing(self, network, model, samples):
        def lie(self, model, state):
            far = self.toward(state.images, state.labels, 0.9)
            model.logits(far)
            return replace(state, images=far)

        findings = run_check(scripted(network, lie, eps=(1.0,), rounds=1), model, samples).columns
        assert not findings["fooled"].any()
        assert findings["overstepped"].sum() > 0

    def test_moving_the_images_in_place_gains_nothing(self, network, model, samples):
        def creep(self, model, state):
            state.images.copy_(self.toward(state.images, state.labels, 0.1))
            state.eps.fill_(1.0)
            model.logits(state.images)
            return state

        findings = run_check(scripted(network, creep, eps=(GREY / 100,), rounds=1), model, samples).columns
        assert not findings["fooled"].any()
        assert (findings["overstepped"][findings["clean_correct"]] == 2).all()

    def test_an_image_that_is_not_a_number_gains_nothing(self, network, model, samples):
        def lie(self, model, state):
            return replace(state, images=torch.full_like(state.images, torch.nan))

        quiet = replace(model, deployed=lambda images: model.deployed(images.nan_to_num(0.0)))
        findings = run_check(scripted(network, lie, rounds=1), quiet, samples).columns
        assert not findings["fooled"].any()

    def test_a_success_that_the_attack_forgets_is_credited(self, network, model, samples):
        def forget(self, model, state):
            model.logits(self.toward(state.images, state.labels, state.eps.view(-1, 1, 1, 1)))
            return state

        findings = run_check(scripted(network, forget), model, samples).columns
        assert findings["fooled"].sum() > 15
        np.testing.assert_array_equal(findings["fooled"], findings["clean_correct"])
        assert (findings["steps"][findings["fooled"]] == 1).all()
        assert (findings["distance"][findings["fooled"]] > 0).all()

    def test_a_success_among_several_candidates_of_a_row_is_credited_to_that_row(self, network, model, samples):
        def ask_thrice(self, model, state):
            away = self.toward(state.images, state.labels, state.eps.view(-1, 1, 1, 1))
            model.logits(torch.stack([state.images, away, state.images], 1).flatten(0, 1))
            return state

        findings = run_check(scripted(network, ask_thrice), model, samples, batch=7)
        np.testing.assert_array_equal(findings.columns["fooled"], findings.columns["clean_correct"])
        assert (findings.forwards[findings.columns["fooled"]] == 1 + 3 + 1).all()

    def test_a_success_that_was_never_asked_about_is_found_at_the_end(self, network, model, samples):
        def silent(self, model, state):
            return replace(state, images=self.toward(state.images, state.labels, 0.05))

        findings = run_check(scripted(network, silent, rounds=1), model, samples)
        np.testing.assert_array_equal(findings.columns["fooled"], findings.columns["clean_correct"])
        assert (findings.forwards[findings.columns["fooled"]] == 2).all()

    def test_what_only_the_search_copy_believes_is_refuted_and_the_search_goes_on(self, network, model, samples):
        other = LinearModel(classes=4, seed=99)

        def grow(self, model, state):
            length = 0.002 * (state.step + 1).view(-1, 1, 1, 1)
            moved = self.toward(state.images, state.labels, length)
            model.logits(moved)
            return replace(state, step=state.step + 1)

        attack = scripted(network, grow, rounds=12)
        honest = run_check(attack, model, samples).columns
        misled = run_check(attack, model, samples, search=searching_with(other)).columns
        assert honest["refuted"].sum() == 0
        assert honest["fooled"].any()
        np.testing.assert_array_equal(misled["clean_correct"], honest["clean_correct"])
        # The copy is wrong about most images from the first step on, so what the deployed model confirms later, and
        # only that, was found by going on; a row is confirmed no sooner than an honest search finds it.
        assert misled["refuted"].sum() > len(samples)
        both = misled["fooled"] & honest["fooled"]
        assert both.sum() >= 5
        assert (misled["steps"][both] >= honest["steps"][both]).all()
        assert not (misled["fooled"] & ~honest["fooled"]).any()

    def test_a_search_copy_that_believes_everything_proves_nothing(self, network, model, samples):
        class Liar(nn.Module):
            def forward(self, images):
                return -network(images)

        still = scripted(network, lambda self, model, state: (model.logits(state.images), state)[1])
        findings = run_check(still, model, samples, search=searching_with(Liar())).columns
        assert not findings["fooled"].any()
        assert (findings["refuted"][findings["clean_correct"]] == 3).all()

    def test_images_that_are_wrong_already_are_not_attacked(self, model, samples):
        findings = run_check(PGD(eps=(GREY,), steps=3), model, samples)
        wrong = ~findings.columns["clean_correct"]
        assert wrong.sum() == 3
        assert (findings.forwards[wrong] == 1).all()
        assert (findings.backwards[wrong] == 0).all()
        assert not findings.columns["robust"][wrong].any()


def test_a_twin_that_disagrees_with_the_deployed_model_lends_it_no_gradients(network, samples):
    cpu, images = torch.device("cpu"), samples.images

    def with_twin(twin):
        loaded = replace(load_module(twin.eval(), cpu), run=network, is_twin=True)
        return try_out(loaded, Preprocessing(), images, cpu, 128)

    assert with_twin(LinearModel(classes=4, seed=3)).exact is not None
    stranger = with_twin(LinearModel(classes=4, seed=99))
    assert stranger.exact is None
    assert "does not agree" in stranger.no_gradients
    assert torch.equal(stranger.logits(images), with_twin(network).logits(images))


class Gated(nn.Module):
    """A network with a layer of one output, whose rows round differently in an uneven batch."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.gate = nn.Parameter(torch.randn(1, 192, generator=generator) / 14)
        self.body = LinearModel(classes=4, seed=3)

    def forward(self, images):
        return self.body(images) * (2 + nn.functional.linear(images.flatten(1), self.gate))


@pytest.mark.parametrize("body", [LinearModel(classes=4, seed=3), Gated()])
def test_no_bit_of_a_row_depends_on_the_size_of_its_batch(body):
    images = toy_samples(67, seed=1).images
    model = toy_model(body, images[:32])
    whole, (_, gradients) = model.logits(images), model.exact.gradient(images, lambda logits: logits.amax(1))
    for size in range(1, 67):
        assert torch.equal(model.logits(images[-size:]), whole[-size:]), size
        assert torch.equal(model.exact.gradient(images[-size:], lambda logits: logits.amax(1))[1], gradients[-size:])


ATTACKS = {
    "pgd": PGD(eps=(0.5 * GREY, GREY, 2 * GREY), steps=4, restarts=2),
    "pgd l2": PGD(eps=(0.05, 0.1), norm="l2", steps=4),
    "fgsm": FGSM(eps=(GREY, 2 * GREY)),
    "gaussian": GaussianNoise(eps=(8 * GREY, 32 * GREY), draws=4),
    "uniform": UniformNoise(eps=(8 * GREY, 32 * GREY), draws=4),
}


def same(wanted, got, order=None):
    rows = slice(None) if order is None else order
    assert list(wanted.columns) == list(got.columns)
    for name, column in wanted.columns.items():
        np.testing.assert_array_equal(got.columns[name], column[rows], err_msg=name)
    np.testing.assert_array_equal(got.forwards, wanted.forwards[rows])
    np.testing.assert_array_equal(got.backwards, wanted.backwards[rows])


@pytest.fixture(scope="module", params=["linear", "gated"])
def law(request, network):
    chosen = network if request.param == "linear" else Gated()
    samples = toy_samples(23, seed=8, network=chosen)
    model = toy_model(chosen, samples.images)
    return samples, model, {name: run_check(attack, model, samples, batch=64) for name, attack in ATTACKS.items()}


@pytest.mark.parametrize("name", list(ATTACKS))
@settings(deadline=None, max_examples=8)
@given(batch=st.sampled_from([1, 3, 7, 13, 64]), order=st.permutations(range(23)), kept=st.integers(1, 23))
def test_batch_order_and_company_change_no_sample(law, name, batch, order, kept):
    samples, model, whole = law
    assert whole[name].columns["fooled"].any()
    order = order[:kept]
    same(whole[name], run_check(ATTACKS[name], model, samples.take(order), batch=batch), order)


def test_a_network_that_needs_a_fixed_batch_has_results_that_do_not_depend_on_it(network, samples, model):
    fixed = Batching(fixed=5)
    rigid = replace(model, batching=fixed, exact=replace(model.exact, batching=fixed))
    same(run_check(ATTACKS["pgd"], rigid, samples, batch=64), run_check(ATTACKS["pgd"], rigid, samples, batch=3))


def test_every_restart_draws_anew_and_only_for_images_that_still_stand(model, samples):
    once = run_check(UniformNoise(eps=(24 * GREY,), draws=2), model, samples)

    @dataclass(frozen=True)
    class Again(UniformNoise):
        restarts: int = 3

    thrice = run_check(Again(eps=(24 * GREY,), draws=2), model, samples)
    fooled, correct = once.columns["fooled"], once.columns["clean_correct"]
    standing = correct & ~fooled
    np.testing.assert_array_equal(thrice.forwards[fooled], once.forwards[fooled])
    assert (once.forwards[standing] == 1 + 2 + 1).all()
    never = correct & ~thrice.columns["fooled"]
    assert never.any()
    assert (thrice.forwards[never] == 1 + 3 * (2 + 1)).all()
    assert (thrice.columns["fooled"] | ~fooled).all()
    assert thrice.columns["fooled"].sum() > fooled.sum(), "the restarts repeated the same draws"


def test_rows_that_leave_are_replaced_at_once(model, samples):
    """Every query but the last ones is about a full batch."""
    sizes = []

    class Watched(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            sizes.append(len(images))
            return self.inner(images)

    search = replace(model.exact, network=Watched(model.exact.network), batching=Batching(minimum=1))
    findings = run_check(PGD(eps=(GREY,), steps=6), model, samples, batch=8, search=search)
    assert findings.columns["fooled"].any()
    assert max(sizes) == 8
    full = [at for at, size in enumerate(sizes) if size == 8]
    assert full == list(range(len(full)))
    assert sum(size for size in sizes if size < 8) <= 6 * 8


def test_rows_that_are_given_up_are_judged_once_and_stepped_no_further(network, model, samples):
    def step(self, model, state):
        model.logits(state.images)
        at = state.step + 1
        return replace(state, step=at, given_up=(at == 2) & (state.labels == 0))

    findings = run_check(scripted(network, step, rounds=5), model, samples, batch=7)
    correct, first = findings.columns["clean_correct"], (samples.labels == 0).numpy()
    assert (findings.forwards[correct & first] == 1 + 2 + 1).all()
    assert (findings.forwards[correct & ~first] == 1 + 5 + 1).all()
    assert (correct & first).any()
    assert not findings.columns["fooled"].any()


@pytest.mark.parametrize("method", ["start", "step"])
def test_a_state_with_other_rows_is_an_error_that_names_the_method(network, model, samples, method):
    def halve(state):
        half = len(state.labels) // 2
        return State(*(getattr(state, field.name)[:half] for field in fields(state)))

    if method == "step":
        attack = scripted(network, lambda self, model, state: halve(state))
    else:
        plain = scripted(network, lambda self, model, state: state)
        kind = dataclass(frozen=True)(
            type(
                "Short",
                (type(plain),),
                {"start": lambda self, *a: halve(Scripted.start(self, *a)), "__annotations__": {}},
            )
        )
        attack = kind()
    with pytest.raises(TypeError, match=rf"^{method} was given 27 rows and returned a state of 13$"):
        run_check(attack, model, samples)


def test_a_query_that_fits_no_row_is_refused(network, model, samples):
    attack = scripted(network, lambda self, model, state: (model.logits(state.images[:-1]), state)[1])
    with pytest.raises(TypeError, match="same number of images for each of the 27 rows; got 26"):
        run_check(attack, model, samples)


def test_a_search_without_end_is_stopped_at_its_time_limit(network, model, samples):
    endless = scripted(network, lambda self, model, state: state, rounds=10**9)
    with pytest.raises(TimeLimitError, match=r"time limit of 0\.05 s"):
        run_check(endless, model, samples, time_limit=0.05)


class TestTheContract:
    """`assert_contract` finds what plugin authors get wrong."""

    def test_an_honest_attack_keeps_it(self):
        assert_contract(PGD, options={"steps": 4, "restarts": 2, "eps": "1/255, 0.0123456789"})
        assert_contract(FGSM(eps=(GREY, 2 * GREY)))

    @pytest.mark.parametrize(
        ("step", "words"),
        [
            (lambda self, model, state: replace(state, images=state.images + 1), "outside its budget"),
            (lambda self, model, state: (model.logits(state.images * 0), state)[1], "outside its budget"),
            (
                lambda self, model, state: (
                    model.logits(state.images + 0.05 * torch.rand_like(state.images).sub(0.5)),
                    state,
                )[1],
                "changed torch's random state",
            ),
            (
                lambda self, model, state: (
                    model.logits((state.images + 0.1 * (state.images.mean() > 0.5001)).clamp(0, 1)),
                    state,
                )[1],
                "gave another",
            ),
            (lambda self, model, state: (state.images.mul_(0.5), state)[1], "outside its budget"),
            (
                lambda self, model, state: (
                    model.gradient(state.images, lambda logits: logits.sum(1)),
                    state,
                )[1],
                "without gradients",
            ),
        ],
    )
    def test_a_breach_of_an_attack_is_named(self, network, step, words):
        with pytest.raises(AssertionError, match=words):
            assert_contract(scripted(network, step), network=network)

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (lambda network, samples: samples.images.mul_(0.5), "changed the images"),
            (lambda network, samples: network.weight.data.mul_(2), "changed the model"),
            (lambda network, samples: network.train(), "changed the model"),
            (lambda network, samples: torch.rand(1), "changed torch's random state"),
            (lambda network, samples: np.random.random(), "changed numpy's"),  # noqa: NPY002
        ],
    )
    def test_a_check_that_leaves_traces_is_named(self, spoil, words):
        network = LinearModel()

        @dataclass(frozen=True)
        class Careless:
            spec: ClassVar[Spec] = Spec("made.up", "t", "w", (Metric("ones", "one", "t"),))

            def run(self, model, samples, ctx):
                spoil(network, samples)
                return Findings({"one": np.ones(len(samples), dtype=bool)})

        with pytest.raises(AssertionError, match=words):
            assert_contract(Careless, network=network)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"id": "NoDot"}, "an id reads group.name"),
            ({"title": " "}, "no title"),
            ({"metrics": ()}, "no metrics"),
            ({"metrics": (Metric("m", "absent", "t"),)}, "no column absent"),
            ({"flags": (FlagRule("f", "other", 0, "t", "r"),)}, "no metric of it"),
            ({"presets": {"standard": {"nope": 1}}}, "no option 'nope'"),
            ({"presets": {"quick": {}}}, "names a preset 'quick'"),
        ],
    )
    def test_a_poor_declaration_is_named(self, change, words):
        @dataclass(frozen=True)
        class Poor:
            spec: ClassVar[Spec] = replace(Spec("made.up", "t", "w", (Metric("m", "one", "t"),)), **change)
            amount: float = 0.5

            def run(self, model, samples, ctx):
                return Findings({"one": np.ones(len(samples), dtype=bool)})

        with pytest.raises(AssertionError, match=words):
            assert_contract(Poor)

    def test_a_check_that_is_not_frozen_is_named(self):
        with pytest.raises(AssertionError, match="is not frozen"):
            assert_contract(dataclass(type("Melting", (), {"spec": spec(), "run": lambda *_: None})))
