"""The driver: the deployed model judges, the budget holds, and batches and order change nothing."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_attacks import InTurn, Scripted, State, closing_in, scripted, searching_with, some_way
from torch import nn

from auditkit.context import TimeLimitError
from auditkit.models.base import Batching
from auditkit.models.preprocess import Preprocessing
from auditkit.models.torch_files import load_module
from auditkit.models.tryout import try_out
from auditkit.stored import from_16bit
from auditkit.testing import LinearModel, linear_distance, run_check, toy_model, toy_samples
from auditkit.threat import distance
from auditkit_plugins.fgsm import FGSM
from auditkit_plugins.pgd import PGD
from auditkit_plugins.random_noise import GaussianNoise, UniformNoise

GREY = 1 / 255
# Every attacked image is shown to the model again as a PNG and as a JPEG would give it back.
STORED = 2


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


class Liar(nn.Module):
    """Says the opposite of another network, about clean images, too."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return -self.network(images)


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
        assert (findings.forwards[findings.columns["fooled"]] == 1 + 3 + 1 + STORED).all()

    def test_a_success_that_was_never_asked_about_is_found_at_the_end(self, network, model, samples):
        def silent(self, model, state):
            return replace(state, images=self.toward(state.images, state.labels, 0.05))

        findings = run_check(scripted(network, silent, rounds=1), model, samples)
        np.testing.assert_array_equal(findings.columns["fooled"], findings.columns["clean_correct"])
        assert (findings.forwards[findings.columns["fooled"]] == 1 + 1 + STORED).all()

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
        still = scripted(network, lambda self, model, state: (model.logits(state.images), state)[1])
        findings = run_check(still, model, samples, search=searching_with(Liar(network))).columns
        assert not findings["fooled"].any()
        assert (findings["refuted"][findings["clean_correct"]] == 3).all()

    def test_images_that_are_wrong_already_are_not_attacked(self, model, samples):
        findings = run_check(PGD(eps=(GREY,), steps=3), model, samples)
        wrong = ~findings.columns["clean_correct"]
        assert wrong.sum() == 3
        assert (findings.forwards[wrong] == 1).all()
        assert (findings.backwards[wrong] == 0).all()
        assert not findings.columns["robust"][wrong].any()


def needs_exactly(network, samples, times):
    """Return a start for attacks in search of the nearest success: `eps` is what each image needs, `times` over."""
    least = times * linear_distance(network, samples.images, samples.labels, "linf").float()

    def start(self, origin):
        away = (origin.images.flatten(1)[:, None] - samples.images.flatten(1)).abs().sum(2)
        return replace(Scripted.start(self, origin), eps=least[away.argmin(1)])

    return start


def at_lengths(*lengths):
    """Return a step that asks at these multiples of `eps`, one a step; a tuple of them is one query."""
    table = torch.tensor([length if isinstance(length, tuple) else (length,) for length in lengths])

    def step(self, model, state):
        asked = (table[state.step] * state.eps.unsqueeze(1)).view(*state.eps.shape, -1, 1, 1, 1)
        images = torch.stack([self.toward(state.clean, state.labels, far) for far in asked.unbind(1)], 1)
        model.logits(images.flatten(0, 1))
        return replace(state, images=state.clean, step=state.step + 1)

    return step


class TestTheNearest:
    """An attack that looks for the nearest success has no budget; the core keeps the nearest and has it confirmed."""

    def run(self, pair, lengths, times=1.0, search=None, eps=(GREY, 2 * GREY), **options):
        network, samples, model = pair
        start = needs_exactly(network, samples, times)
        options = {"rounds": len(lengths), "start": start, **options}
        attack = scripted(network, at_lengths(*lengths), nearest=True, eps=eps, **options)
        context = {} if search is None else {"search": searching_with(search)}
        least = linear_distance(network, samples.images, samples.labels, "linf").numpy()
        return run_check(attack, model, samples, **context), least

    def test_it_keeps_the_nearest_of_all_successes_and_runs_all_its_steps(self, pair):
        findings, least = self.run(pair, (0.9, 3.0, 1.2, 2.0, 1.05, 1.5))
        correct, columns = findings.columns["clean_correct"], findings.columns
        np.testing.assert_array_equal(columns["found"], correct)
        np.testing.assert_allclose(columns["distance"][correct], 1.05 * least[correct], rtol=1e-4)
        assert (columns["steps"][correct] == 6).all()
        assert (findings.forwards[correct] == 1 + 6 + 1 + STORED * columns["fooled"][correct]).all()
        for name, eps in (("1/255", GREY), ("2/255", 2 * GREY)):
            np.testing.assert_array_equal(columns[f"fooled@{name}"], correct & (1.05 * least <= eps))
        assert 0 < columns["fooled@1/255"].sum() < columns["fooled"].sum() < correct.sum()

    def test_the_nearest_of_several_candidates_counts_wherever_it_stands(self, pair):
        findings, least = self.run(pair, ((1.5, 1.1, 0.9), (1.4, 2.0, 1.2)))
        turned, _ = self.run(pair, ((0.9, 1.4, 2.0), (1.1, 1.2, 1.5)))
        correct = findings.columns["clean_correct"]
        np.testing.assert_allclose(findings.columns["distance"][correct], 1.1 * least[correct], rtol=1e-4)
        np.testing.assert_array_equal(turned.columns["distance"], findings.columns["distance"])

    def test_the_nearest_of_several_queries_of_one_step_counts_in_any_order(self, pair):
        def asking_one_by_one(*lengths):
            steps = [at_lengths(length) for length in lengths]

            def step(self, model, state):
                for ask in steps:
                    ask(self, model, replace(state, step=torch.zeros_like(state.step)))
                return state

            return step

        network, samples, model = pair
        least = linear_distance(network, samples.images, samples.labels, "linf").numpy()
        for lengths in ((2.0, 1.1, 0.5), (1.1, 2.0, 1.5)):
            start = needs_exactly(network, samples, 1.0)
            attack = scripted(network, asking_one_by_one(*lengths), nearest=True, start=start, rounds=1)
            findings = run_check(attack, model, samples)
            correct = findings.columns["clean_correct"]
            np.testing.assert_allclose(findings.columns["distance"][correct], 1.1 * least[correct], rtol=1e-4)

    def test_a_success_outside_every_budget_is_found_and_fools_at_none(self, pair):
        findings, least = self.run(pair, (1.5,), eps=(GREY / 100,))
        correct = findings.columns["clean_correct"]
        np.testing.assert_array_equal(findings.columns["found"], correct)
        np.testing.assert_allclose(findings.columns["distance"][correct], 1.5 * least[correct], rtol=1e-4)
        assert not findings.columns["fooled"].any()
        assert (findings.columns["overstepped"] == 0).all()

    def test_every_restart_is_made_and_the_best_of_them_counts(self, pair):
        network, samples, _ = pair
        begin = needs_exactly(network, samples, 1.0)

        def start(self, origin):
            state = begin(self, origin)
            return replace(state, eps=state.eps * torch.tensor([3.0, 1.1, 2.0])[origin.restart])

        findings, least = self.run(pair, (1.0, 1.0), start=start, restarts=3, eps=(1.0,))
        correct = findings.columns["clean_correct"]
        np.testing.assert_allclose(findings.columns["distance"][correct], 1.1 * least[correct], rtol=1e-4)
        assert (findings.forwards[correct] == 1 + 3 * (2 + 1) + STORED).all()

    def test_a_row_that_is_given_up_leaves_with_what_it_has(self, pair):
        step = at_lengths(2.0, 1.5, 1.1)

        def hasty(self, model, state):
            state = step(self, model, state)
            return replace(state, given_up=state.step == 2)

        network, samples, model = pair
        attack = scripted(network, hasty, nearest=True, start=needs_exactly(network, samples, 1.0), rounds=3)
        findings = run_check(attack, model, samples)
        least = linear_distance(network, samples.images, samples.labels, "linf").numpy()
        correct = findings.columns["clean_correct"]
        np.testing.assert_allclose(findings.columns["distance"][correct], 1.5 * least[correct], rtol=1e-4)
        assert (findings.columns["steps"][correct] == 2).all()

    def test_what_the_deployed_model_does_not_confirm_is_pushed_out_until_it_does(self, pair):
        """The search copy's boundary is a little nearer for one class and a little further for the other."""
        network, samples, model = pair
        copy = LinearModel(classes=2, seed=1)
        with torch.no_grad():
            copy.bias += torch.tensor([0.4, -0.4])
        at_copy = linear_distance(copy, samples.images, samples.labels, "linf").numpy()
        # The last step finds nothing: what is pushed is what an earlier one found.
        start = needs_exactly(copy, samples, 1.0)
        attack = scripted(network, at_lengths(1.0005, 0.5), nearest=True, start=start, rounds=2, eps=(1.0,))
        columns = run_check(attack, model, samples, search=searching_with(copy)).columns
        least = linear_distance(network, samples.images, samples.labels, "linf").numpy()
        seen = columns["clean_correct"] & (at_copy > 0)
        excess = least[seen] / (1.0005 * at_copy[seen])
        assert (excess < 0.95).any()
        assert (excess > 1.05).any()
        assert seen.sum() > 20
        within = excess < 5
        np.testing.assert_array_equal(columns["found"][seen][within], True)
        np.testing.assert_array_equal(columns["refuted"][seen] > 0, excess > 1)
        moved, easy = columns["distance"][seen], excess < 1
        np.testing.assert_allclose(moved[easy], 1.0005 * at_copy[seen][easy], rtol=1e-4)
        pushed = ~easy & within
        assert (moved[pushed] >= 0.9999 * least[seen][pushed]).all()
        slightly = ~easy & (excess < 1.3)
        assert slightly.any()
        assert (moved[slightly] <= 1.31 * least[seen][slightly]).all()
        np.testing.assert_array_equal(columns["attacked_label"][columns["found"]], 1 - samples.labels[columns["found"]])

    def test_what_the_deployed_model_never_confirms_is_no_success(self, pair):
        findings, _ = self.run(pair, (0.1, 0.05), search=Liar(pair[0]))
        correct = findings.columns["clean_correct"]
        assert not findings.columns["found"].any()
        assert not findings.columns["fooled"].any()
        assert np.isnan(findings.columns["distance"]).all()
        assert (findings.columns["refuted"][correct] > 0).all()
        judged = findings.forwards[correct] - 1 - 2
        np.testing.assert_array_equal(judged, 1 + findings.columns["refuted"][correct])

    def test_the_clean_image_is_no_success_however_wrong_the_search_copy_is_about_it(self, pair):
        findings, _ = self.run(pair, ((0.0, 0.0), (0.0, 0.0)), search=Liar(pair[0]))
        assert not findings.columns["found"].any()
        assert (findings.columns["refuted"] == 0).all()
        assert (findings.forwards[findings.columns["clean_correct"]] == 1 + 4 + 1).all()


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


BUDGETS = (0.5 * GREY, GREY, 2 * GREY)
NEAREST = scripted(
    LinearModel(classes=4, seed=3), closing_in, start=some_way, nearest=True, eps=BUDGETS, rounds=6, restarts=2
)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0", "area"])
def test_no_bit_of_a_distance_depends_on_the_size_of_its_batch(norm):
    """Images are large enough here for torch to split a single one among its threads."""
    clean, attacked = (toy_samples(6, seed=seed, shape=(3, 128, 128)).images for seed in (1, 2))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        whole = distance(norm, clean, attacked)
        for row in range(6):
            assert torch.equal(distance(norm, clean[row : row + 1], attacked[row : row + 1])[0], whole[row]), row
    finally:
        torch.set_num_threads(threads)


ATTACKS = {
    "pgd": PGD(eps=(0.5 * GREY, GREY, 2 * GREY), steps=4, restarts=2),
    "pgd l2": PGD(eps=(0.05, 0.1), norm="l2", steps=4),
    "fgsm": FGSM(eps=(GREY, 2 * GREY)),
    "gaussian": GaussianNoise(eps=(8 * GREY, 32 * GREY), draws=4),
    "uniform": UniformNoise(eps=(8 * GREY, 32 * GREY), draws=4),
    "sweep": PGD(eps=tuple(GREY * step / 4 for step in range(1, 10)), steps=5, restarts=2),
    "nearest": NEAREST,
    "cascade": InTurn((FGSM(eps=BUDGETS), NEAREST, PGD(eps=BUDGETS, steps=3))),
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
        attack = scripted(
            network, lambda self, model, state: state, start=lambda self, origin: halve(Scripted.start(self, origin))
        )
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


class TestWhatAnAttackMaySay:
    """Marks, a first look, a control, and the strongest success instead of the first."""

    @staticmethod
    def attack(network, step, **parts):
        made = scripted(network, step, rounds=parts.pop("rounds", 3), eps=(0.5,))
        kind = type("Speaking", (type(made),), {"__annotations__": {}, **parts})
        return dataclass(frozen=True)(kind)(eps=made.eps, rounds=made.rounds)

    @staticmethod
    def at(network, lengths):
        """Ask about points at these shares of 0.5 at once, each marked with its share and the step."""

        def step(self, model, state):
            points = [self.toward(state.clean, state.labels, 0.5 * share).clamp(0, 1) for share in lengths]
            marks = torch.tensor([[share, 0.0] for share in lengths]).expand(len(state.labels), -1, -1).clone()
            marks[..., 1] = state.step.unsqueeze(1)
            model.logits(torch.stack(points, 1).flatten(0, 1), marks.flatten(0, 1))
            return replace(state, step=state.step + 1)

        return step

    def test_the_marks_of_the_first_success_become_columns(self, pair):
        network, samples, model = pair
        attack = self.attack(network, self.at(network, (0.0, 0.8, 1.0)), marks=("share", "age"))
        columns = run_check(attack, model, samples).columns
        fooled = columns["fooled"]
        assert fooled.any()
        assert (columns["share"][fooled] == np.float32(0.8)).all()
        assert (columns["age"][fooled] == 0).all()
        assert np.isnan(columns["share"][~fooled]).all()

    def test_the_strongest_goal_keeps_the_largest_margin_and_spends_all_steps(self, pair):
        network, samples, model = pair
        for lengths in ((0.6, 1.0, 0.8), (1.0, 0.6, 0.8)):
            attack = self.attack(network, self.at(network, lengths), marks=("share", "age"), goal="strongest")
            findings = run_check(attack, model, samples)
            fooled = findings.columns["fooled"]
            assert fooled.any()
            assert (findings.columns["share"][fooled] == 1.0).all()
            assert (findings.columns["steps"][fooled] == 3).all()
            assert (findings.columns["age"][fooled] == 0).all(), "an equal success later is no stronger one"

    def test_a_first_look_is_counted_and_may_succeed(self, pair):
        network, samples, model = pair

        def scout(self, model, state):
            model.logits(self.toward(state.clean, state.labels, 0.5).clamp(0, 1))
            return state

        def idle(self, model, state):
            return replace(state, step=state.step + 1)

        findings = run_check(self.attack(network, idle, scout=scout), model, samples)
        correct = findings.columns["clean_correct"]
        np.testing.assert_array_equal(findings.columns["fooled"], correct)
        assert (findings.columns["steps"][correct] == 0).all()
        assert (findings.forwards[correct] == 1 + 1 + 1 + STORED).all()

    def test_the_control_counts_inside_the_budget_only(self, pair):
        network, samples, model = pair

        def idle(self, model, state):
            return replace(state, step=state.step + 1)

        for length, counts in ((0.5, True), (0.6, False)):

            def control(self, origin, length=length):
                return self.toward(origin.images, origin.labels, length).clamp(0, 1)

            columns = run_check(self.attack(network, idle, control=control), model, samples).columns
            wanted = columns["clean_correct"] if counts else np.zeros(len(samples), dtype=bool)
            np.testing.assert_array_equal(columns["fooled_by_chance"], wanted)

    def test_attacked_images_are_kept_for_other_checks(self, pair):
        network, samples, model = pair
        findings = run_check(self.attack(network, self.at(network, (1.0,)), marks=("share", "age")), model, samples)
        found = torch.from_numpy(findings.columns["found"])
        labels = samples.labels[found]
        images = from_16bit(findings.attacked)
        assert (network(images).argmax(1) != labels).all()
        assert (images - samples.images[found]).abs().max() <= 0.5 + 1e-4

    def test_marks_of_another_number_are_refused(self, pair):
        network, samples, model = pair
        with pytest.raises(TypeError, match="has marks"):
            run_check(self.attack(network, self.at(network, (1.0,)), marks=("share",)), model, samples)
