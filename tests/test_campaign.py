"""Campaigns: a sweep descends from its largest budget, a cascade finds the worst case, nothing is searched twice."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_attacks import InTurn, closing_in, edge, scripted, some_way

from auditkit.campaign import Campaign, Trail
from auditkit.drive import Outcome
from auditkit.samples import Samples
from auditkit.testing import LinearModel, linear_distance, run_check, toy_model, toy_samples
from auditkit.threat import allowed, distance, tolerated
from auditkit_plugins.fgsm import FGSM
from auditkit_plugins.pgd import PGD
from auditkit_plugins.random_noise import GaussianNoise, UniformNoise

GREY = 1 / 255
STORED = 2
SWEEP = tuple(GREY * step / 4 for step in (1, 2, 3, 4, 6, 8, 12, 16))


@pytest.fixture(scope="module")
def pair():
    """Two classes: the shortest way to the other one is a formula."""
    network = LinearModel(classes=2, seed=1)
    samples = toy_samples(40, seed=2, network=network)
    return network, samples, toy_model(network, samples.images)


@pytest.fixture(scope="module")
def four():
    network = LinearModel(classes=4, seed=3)
    samples = toy_samples(30, seed=5, network=network)
    return network, samples, toy_model(network, samples.images)


@dataclass
class Pretended:
    """A campaign without images: each sample has a distance, and searches succeed exactly from there on."""

    least: tuple[float, ...]
    eps: tuple[float, ...]
    norm: str = "linf"
    nearest: bool = False
    restarts: int = 1
    lands: float = 1.0
    """Where between the least distance and the budget a success lies."""

    def __post_init__(self):
        n = len(self.least)
        self.samples = Samples(torch.zeros(n, 1, 1, 1), torch.zeros(n, dtype=torch.int64), tuple(map(str, range(n))))
        self.trails = {row: Trail(fooled_from=len(self.eps)) for row in range(n)}
        self.told = 0
        self.jobs = []

    def run(self, number=0, least=None, nearest=None):
        """Run one attack of the campaign; return its jobs and which of them succeeded."""
        least = self.least if least is None else least
        nearest = self.nearest if nearest is None else nearest
        campaign = Campaign(
            self.eps, self.samples, self.trails, self.norm, nearest, self.restarts, number, self.progress
        )
        done = []
        while (job := campaign.next()) is not None:
            assert len(done) < 1000, "it goes on for ever"
            needed = least[job.sample]
            fooled = needed <= job.eps
            top = min(job.eps, 1.0) if job.point is None else min(job.eps, float(job.point.max()) or job.eps)
            away = needed + self.lands * max(0.0, top - needed) if fooled else math.nan
            done.append((job, fooled))
            image = torch.full((1, 1, 1), away if fooled else 0.0)
            away = 0.0 if self.norm == "free" and fooled else away
            campaign.report(Outcome(job, fooled, image, torch.zeros(2), away, 1, 2, 3, 4, 5))
        return done

    def progress(self, samples):
        self.told += samples


def budgets(count):
    return tuple(round(0.1 * step, 3) for step in range(1, count + 1))


NEEDED = st.floats(0.001, 0.999).filter(lambda away: abs(away * 10 - round(away * 10)) > 1e-3)


class TestTheOrderOfJobs:
    @settings(deadline=None)
    @given(
        least=st.lists(NEEDED, min_size=1, max_size=5),
        count=st.integers(1, 9),
        lands=st.floats(0, 1),
        restarts=st.integers(1, 3),
    )
    def test_each_sample_is_fooled_from_exactly_its_budget_on_with_one_failing_search_at_most(
        self, least, count, lands, restarts
    ):
        eps = budgets(count)
        pretended = Pretended(tuple(least), eps, restarts=restarts, lands=lands)
        done = pretended.run()
        assert pretended.told == len(least)
        for row, needed in enumerate(least):
            mine = [(job, fooled) for job, fooled in done if job.sample == row]
            assert pretended.trails[row].fooled_from == sum(at < needed for at in eps)
            failing = [job for job, fooled in mine if not fooled]
            assert [job.restart for job in failing] == (list(range(restarts)) if needed > eps[0] else [])
            assert len({job.eps for job in failing}) <= 1
            asked = [job.eps for job, fooled in mine if fooled]
            assert asked == sorted(asked, reverse=True)
            assert len(set(asked)) == len(asked)
            assert mine[0][0].eps == eps[-1]

    def test_a_success_leads_to_the_next_smaller_budget_from_the_found_point_scaled_into_it(self):
        first, second, third = [job for job, _ in Pretended((0.15,), budgets(5), lands=1.0).run()][:3]
        assert (first.eps, first.point, first.smaller) == (0.5, None, (0.1, 0.2, 0.3, 0.4))
        assert (second.eps, second.smaller, third.eps) == (0.4, (), 0.3)
        assert float(second.point) == pytest.approx(0.4)
        assert float(third.point) == pytest.approx(0.3)

    def test_a_success_well_inside_its_budget_skips_the_budgets_between(self):
        jobs = [job for job, _ in Pretended((0.15,), budgets(5), lands=0.0).run()]
        assert [job.eps for job in jobs] == [0.5, 0.1]
        assert float(jobs[1].point) == pytest.approx(0.1)

    def test_every_restart_begins_anew_and_a_success_makes_the_next_search_the_first_again(self):
        done = Pretended((0.35,), budgets(5), restarts=3, lands=1.0).run()
        assert [(job.eps, job.restart, job.point is not None, fooled) for job, fooled in done] == [
            (0.5, 0, False, True),
            (0.4, 0, True, True),
            (0.3, 0, True, False),
            (0.3, 1, False, False),
            (0.3, 2, False, False),
        ]
        assert [job.smaller for job, _ in done] == [(0.1, 0.2, 0.3, 0.4), (), (), (0.1, 0.2), (0.1, 0.2)]

    @pytest.mark.parametrize("norm", ["l0", "area", "free"])
    def test_where_a_smaller_change_is_no_nearer_nothing_is_scaled(self, norm):
        done = Pretended((0.35,), budgets(5), norm=norm).run()
        assert [(job.eps, fooled) for job, fooled in done] == [(0.5, True), (0.4, True), (0.3, False)]
        assert all(job.point is None and job.smaller == () for job, _ in done)

    @pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
    def test_in_every_norm_that_scales_the_found_point_is_scaled(self, norm):
        jobs = [job for job, _ in Pretended((0.35,), budgets(5), norm=norm).run()]
        assert jobs[0].smaller
        assert jobs[1].point is not None

    def test_a_search_for_the_nearest_makes_all_its_restarts_without_a_budget(self):
        pretended = Pretended((0.35, 5.0), budgets(5), nearest=True, restarts=3, lands=0.0)
        done = pretended.run()
        assert [(job.sample, job.eps, job.restart, job.point) for job, _ in done] == [
            (row, math.inf, restart, None) for restart in range(3) for row in range(2)
        ]
        assert [pretended.trails[row].fooled_from for row in range(2)] == [3, 5]
        assert [trail.best is not None for trail in pretended.trails.values()] == [True, True]
        assert pretended.told == 2

    def test_what_a_sample_costs_is_summed_over_all_its_searches(self):
        pretended = Pretended((0.35,), budgets(5), restarts=3)
        jobs = len(pretended.run())
        trail = pretended.trails[0]
        account = trail.steps, trail.forwards, trail.backwards, trail.overstepped, trail.refuted
        assert account == (jobs, 2 * jobs, 3 * jobs, 4 * jobs, 5 * jobs)
        assert trail.steps_to_best == 2


class TestTheNextAttack:
    def test_it_sees_only_what_is_left_and_only_below_what_was_found(self):
        pretended = Pretended((0.05, 0.25, 5.0), budgets(3))
        pretended.run()
        assert [pretended.trails[row].fooled_from for row in range(3)] == [0, 2, 3]
        done = pretended.run(1, least=(0.05, 0.15, 0.25))
        assert [(job.sample, job.eps) for job, _ in done] == [(1, 0.2), (2, 0.3), (1, 0.1), (2, 0.2)]
        assert done[0][0].point is not None, "it starts where the attack before it ended"
        assert [pretended.trails[row].fooled_from for row in range(3)] == [0, 1, 2]
        assert [pretended.trails[row].attack for row in range(3)] == [0, 1, 1]
        assert pretended.told == 2 * 3

    def test_a_further_success_takes_nothing_from_a_nearer_one(self):
        pretended = Pretended((0.15,), budgets(3), nearest=True, lands=0.0)
        pretended.run()
        before = pretended.trails[0].best
        pretended.run(1, least=(0.25,))
        assert pretended.trails[0].best is before
        assert (pretended.trails[0].attack, pretended.trails[0].fooled_from) == (0, 1)
        pretended.run(2, least=(0.05,))
        assert (pretended.trails[0].attack, pretended.trails[0].fooled_from) == (2, 0)

    def test_a_nearer_success_at_the_same_budget_is_kept_and_takes_no_credit(self):
        pretended = Pretended((0.29, 5.0), budgets(3), nearest=True, lands=0.0)
        pretended.run(0)
        pretended.run(1, least=(0.21, 4.0))
        assert [float(pretended.trails[row].best.image) for row in range(2)] == pytest.approx([0.21, 4.0])
        assert [pretended.trails[row].attack for row in range(2)] == [0, 0]
        assert [pretended.trails[row].fooled_from for row in range(2)] == [2, 3]

    @pytest.mark.parametrize("nearest", [False, True])
    def test_what_falls_at_the_smallest_budget_is_not_searched_again(self, nearest):
        pretended = Pretended((0.05, 0.25), budgets(3), restarts=2)
        pretended.run()
        assert {job.sample for job, _ in pretended.run(1, least=(0.01, 0.15), nearest=nearest)} == {1}
        assert pretended.told == 2 * 2

    def test_a_search_for_the_nearest_goes_on_when_it_falls_at_the_smallest_budget_itself(self):
        done = Pretended((0.05,), budgets(3), nearest=True, restarts=3, lands=0.0).run()
        assert [job.restart for job, _ in done] == [0, 1, 2]


def noting(attack, heard):
    """Return the attack with its `start` overheard."""

    def start(self, origin):
        heard.append(origin)
        return type(attack).start(self, origin)

    return type("Overheard", (type(attack),), {"start": start, "__annotations__": {}})(**vars(attack))


def fooled_at(findings):
    return [column for name, column in findings.columns.items() if name.startswith("fooled@")]


class TestSweeps:
    @pytest.mark.parametrize(("norm", "eps"), [("linf", SWEEP), ("l2", tuple(12 * eps for eps in SWEEP))])
    def test_the_verdict_at_every_budget_is_that_of_the_formula(self, pair, norm, eps):
        network, samples, model = pair
        least = linear_distance(network, samples.images, samples.labels, norm).numpy()
        findings = run_check(PGD(eps=eps, norm=norm, steps=15), model, samples)
        correct = least > 0
        shares = []
        for budget, fooled in zip(eps, fooled_at(findings), strict=True):
            decided = np.abs(least - budget) > 2e-3 * budget
            assert decided.sum() >= 0.9 * len(decided)
            np.testing.assert_array_equal(fooled[decided], (correct & (least < budget))[decided])
            shares.append(fooled.mean())
        assert 0 < shares[0] < shares[3] < shares[-1]

    def test_a_larger_budget_never_spares_what_a_smaller_one_fools(self, four):
        _, samples, model = four
        for attack in (
            PGD(eps=SWEEP, steps=3),
            FGSM(eps=SWEEP),
            UniformNoise(eps=tuple(8 * eps for eps in SWEEP), draws=2),
            GaussianNoise(eps=tuple(8 * eps for eps in SWEEP), draws=2),
        ):
            columns = fooled_at(run_check(attack, model, samples))
            assert len({column.sum() for column in columns}) > 2
            assert all((larger | ~smaller).all() for smaller, larger in pairwise(columns))

    def test_a_warm_start_lies_inside_its_budget_on_the_way_to_what_was_found(self, pair):
        _, samples, model = pair
        heard = []
        run_check(noting(PGD(eps=SWEEP, steps=8), heard), model, samples)
        warm = [origin.warm for origin in heard]
        assert torch.cat(warm).any()
        for origin in heard:
            moved = distance("linf", origin.images, origin.points)
            assert allowed("linf", origin.eps, origin.images, origin.points).all()
            assert torch.equal(moved > 0, origin.warm)
            np.testing.assert_allclose(moved[origin.warm], origin.eps[origin.warm], rtol=1e-4)

    def test_a_sweep_costs_one_failing_search_a_sample(self, pair):
        network, samples, model = pair
        heard = []
        attack = scripted(network, edge, eps=SWEEP, rounds=7)
        findings = run_check(noting(attack, heard), model, samples)
        least = linear_distance(network, samples.images, samples.labels, "linf").numpy()
        correct, fooled = findings.columns["clean_correct"], findings.columns["fooled"]
        at_smallest = correct & (least <= SWEEP[0])
        assert at_smallest.any()
        assert (correct & ~fooled).any()
        searches = sum(len(origin.labels) for origin in heard)
        assert searches == fooled.sum() + (correct & ~at_smallest).sum()

    def test_a_success_is_shortened_to_the_smallest_budget_at_which_it_still_is_one(self, pair):
        """The way back is bisected, each query is counted, and the point lies on a budget."""
        network, samples, model = pair
        attack = scripted(network, edge, eps=SWEEP, rounds=2)
        findings = run_check(attack, model, samples)
        least = linear_distance(network, samples.images, samples.labels, "linf").numpy()
        fooled = findings.columns["fooled"]
        assert 5 < fooled.sum() < findings.columns["clean_correct"].sum()
        for row in fooled.nonzero()[0]:
            wanted = next(at for at, eps in enumerate(SWEEP) if least[row] <= eps)
            assert findings.columns["distance"][row] == pytest.approx(SWEEP[wanted], rel=1e-4)
            assert findings.columns["attacked_label"][row] != samples.labels[row]
            # A step and its verdict, the bisection; unless that gave the smallest, a search of two steps that fails.
            failing = 2 + 1 if wanted else 0
            assert findings.forwards[row] == 1 + (1 + 1) + bisection(SWEEP[:-1], least[row]) + failing + STORED

    def test_a_shortened_point_never_counts_for_a_budget_that_it_exceeds(self, four):
        _, samples, model = four
        findings = run_check(PGD(eps=SWEEP, steps=6), model, samples)
        away = findings.columns["distance"]
        for eps, fooled in zip(SWEEP, fooled_at(findings), strict=True):
            assert (away[fooled] <= tolerated(eps)).all()


def bisection(budgets, least):
    """Return how many queries it takes to find the first budget that is at least `least`."""
    low, high, asked = 0, len(budgets), 0
    while low < high:
        asked += 1
        middle = (low + high) // 2
        low, high = (low, middle) if budgets[middle] >= least else (middle + 1, high)
    return asked


def in_class(label):
    """Return a step that asks about the edge of the budget for images of one class only."""

    def step(self, model, state):
        far = torch.where(state.labels == label, state.eps, torch.zeros_like(state.eps)).view(-1, 1, 1, 1)
        images = self.toward(state.clean, state.labels, far).clamp(0, 1)
        model.logits(images)
        return replace(state, images=images, step=state.step + 1)

    return step


class TestCascades:
    def test_the_worst_case_of_each_sample_is_the_union_of_the_attacks(self, pair):
        network, samples, model = pair
        first, second = (scripted(network, in_class(label), eps=SWEEP, rounds=2) for label in (0, 1))
        alone = [run_check(attack, model, samples) for attack in (first, second)]
        together = run_check(InTurn((first, second)), model, samples)
        for name in together.columns:
            if name.startswith("fooled@"):
                union = alone[0].columns[name] | alone[1].columns[name]
                np.testing.assert_array_equal(together.columns[name], union)
        assert all(findings.columns["fooled"].any() for findings in alone)
        found, labels = together.columns["fooled"], samples.labels.numpy()
        np.testing.assert_array_equal(together.columns["attack"][found], labels[found])
        assert (together.columns["attack"][~found] == -1).all()

    def test_a_later_attack_sees_only_what_the_earlier_ones_left(self, pair):
        network, samples, model = pair
        heard = []
        first = scripted(network, edge, eps=(GREY,), rounds=2)
        second = noting(scripted(network, lambda self, model, state: state, eps=(GREY,), rounds=3), heard)
        findings = run_check(InTurn((first, second)), model, samples)
        fooled, correct = findings.columns["fooled"], findings.columns["clean_correct"]
        seen = torch.cat([origin.images for origin in heard])
        left = samples.images[torch.from_numpy(correct & ~fooled)]
        assert fooled.any()
        assert len(left) == len(seen) > 0
        assert {image.numpy().tobytes() for image in seen} == {image.numpy().tobytes() for image in left}
        assert (findings.forwards[fooled] == 1 + 1 + 1 + STORED).all()
        assert (findings.forwards[correct & ~fooled] == 1 + (2 + 1) + 1).all()

    def test_an_attack_after_a_search_for_the_nearest_starts_from_what_that_found(self, pair):
        network, samples, model = pair
        heard = []
        nearest = scripted(network, closing_in, start=some_way, nearest=True, eps=SWEEP[:3], rounds=8)
        findings = run_check(InTurn((nearest, noting(PGD(eps=SWEEP[:3], steps=2), heard))), model, samples)
        assert torch.cat([origin.warm for origin in heard]).all()
        alone = run_check(InTurn((nearest,)), model, samples).columns
        assert (findings.columns["fooled"] | ~alone["fooled"]).all()
        assert (findings.columns["distance"][alone["found"]] <= alone["distance"][alone["found"]]).all()

    def test_each_attack_draws_its_own_numbers(self, four):
        _, samples, model = four
        draw = UniformNoise(eps=(24 * GREY,), draws=2)
        once, twice = (run_check(InTurn((draw,) * count), model, samples).columns["fooled"] for count in (1, 3))
        assert (twice | ~once).all()
        assert twice.sum() > once.sum()

    @pytest.mark.parametrize("other", [PGD(eps=(GREY, 3 * GREY)), PGD(eps=(GREY,), norm="l2"), FGSM(eps=(2 * GREY,))])
    def test_attacks_of_another_norm_or_budget_are_refused(self, pair, other):
        _, samples, model = pair
        with pytest.raises(TypeError, match="one norm and the same budgets"):
            run_check(InTurn((PGD(eps=(GREY,)), other)), model, samples)

    def test_progress_reaches_every_sample_once(self, pair):
        network, samples, model = pair
        told = []
        attacks = (scripted(network, edge, eps=SWEEP), PGD(eps=SWEEP, steps=2))
        run_check(InTurn(attacks), model, samples, progress=told.append)
        assert sum(told) == len(samples)
