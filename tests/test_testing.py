"""The contract test finds what authors of checks get wrong, and lets every honest check pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from scripted_attacks import Scripted, closing_in, scripted, some_way, spec

from auditkit import (
    CLEAN_LOGITS,
    OUTSIDE,
    Capability,
    Conclusion,
    Exhibit,
    Findings,
    FlagRule,
    Metric,
    Spec,
    Tally,
)
from auditkit.testing import LinearModel, assert_contract, run_check, run_learn, toy_model, toy_samples
from auditkit_plugins.fgsm import FGSM
from auditkit_plugins.pgd import PGD
from auditkit_plugins.random_noise import UniformNoise

GREY = 1 / 255


@pytest.fixture(scope="module")
def network():
    return LinearModel(classes=4, seed=3)


class TestAttacksAndDeclarations:
    """What every check owes, and what an attack owes beside."""

    def test_an_honest_attack_keeps_it(self):
        assert_contract(PGD, options={"steps": 4, "restarts": 2, "eps": "1/255, 0.0123456789"})
        assert_contract(FGSM(eps=(GREY, 2 * GREY)))

    def test_an_honest_search_for_the_nearest_keeps_it(self, network):
        attack = scripted(network, closing_in, start=some_way, nearest=True, rounds=5, restarts=2, eps=(0.25, 0.5))
        assert_contract(attack, network=network)

    def test_a_search_for_the_nearest_may_not_leave_the_range_of_colours(self, network):
        def wild(self, model, state):
            model.logits(self.toward(state.images, state.labels, 0.9))
            return state

        with pytest.raises(AssertionError, match="outside its budget"):
            assert_contract(scripted(network, wild, nearest=True), network=network)

    def test_an_attack_that_leaves_its_budget_only_from_a_warm_start_is_named(self, network):
        """It goes on from the found point as if that were the clean image."""

        def start(self, origin):
            return replace(Scripted.start(self, origin), clean=origin.points)

        def step(self, model, state):
            images = self.toward(state.clean, state.labels, state.eps.view(-1, 1, 1, 1))
            model.logits(images)
            return replace(state, images=images)

        honest = scripted(network, step, eps=(0.05,))
        assert_contract(honest, network=network)
        with pytest.raises(AssertionError, match="outside its budget"):
            assert_contract(scripted(network, step, start=start, eps=(0.05,)), network=network)

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

    def test_a_check_that_measures_all_images_by_the_first_is_named(self):
        @dataclass(frozen=True)
        class Comparing:
            spec: ClassVar[Spec] = Spec("made.up", "t", "w", (Metric("m", "one", "t"),))

            def run(self, model, samples, ctx):
                brightness = samples.images.flatten(1).mean(1).numpy()
                return Findings({"one": brightness >= brightness[0]})

        with pytest.raises(AssertionError, match="shuffled samples gave another one"):
            assert_contract(Comparing)

    def test_a_check_that_is_not_frozen_is_named(self):
        with pytest.raises(AssertionError, match="is not frozen"):
            assert_contract(dataclass(type("Melting", (), {"spec": spec(), "run": lambda *_: None})))


ONES = (Metric("ones", "one", "t"),)


def learner(lesson, body=None):
    """Return a class of checks with this `learn(self, model, samples, ctx)`."""

    def run(self, model, samples, ctx):
        return (body or (lambda samples, ctx: ctx.lesson["mean"] > samples.images.flatten(1).mean(1).numpy()))(
            samples, ctx
        )

    def wrapped(self, model, samples, ctx):
        return Findings({"one": np.broadcast_to(run(self, model, samples, ctx), (len(samples),)).astype(bool)})

    methods = {"run": wrapped} if lesson is None else {"run": wrapped, "learn": lesson}
    spec = Spec("made.learner", "t", "w", ONES, scope="dataset")
    made = type("Learner", (), {"spec": spec, "amount": 0.5, **methods})
    made.__annotations__ = {"spec": ClassVar[Spec], "amount": float}
    return dataclass(frozen=True)(made)


def honest(self, model, samples, ctx):
    order = sorted(range(len(samples)), key=samples.ids.__getitem__)
    return {"mean": samples.images[order].double().mean().numpy()}


class TestLearners:
    def test_an_honest_learner_keeps_it(self):
        assert_contract(learner(honest))
        assert_contract(learner(honest)(amount=0.25), samples=toy_samples(9))

    def test_it_learns_from_one_half_and_is_judged_on_the_other(self):
        samples = toy_samples(9)
        learned, judged = set(), set()

        def learn(self, model, samples, ctx):
            learned.update(samples.ids)
            return honest(self, model, samples, ctx)

        def body(samples, ctx):
            judged.update(samples.ids)
            return True

        assert_contract(learner(learn, body), samples=samples)
        assert (len(learned), len(judged)) == (4, 5)
        assert learned | judged == set(samples.ids)

    def test_a_check_runs_with_what_it_learned(self):
        samples = toy_samples(8)
        model = toy_model(LinearModel(), samples.images)
        check = learner(honest)()
        lesson = run_learn(check, model, samples)
        assert float(lesson["mean"]) == pytest.approx(float(samples.images.mean()))
        assert 0 < run_check(check, model, samples, lesson=lesson).columns["one"].sum() < 8
        assert not run_check(check, model, samples, lesson={"mean": np.array(0.0)}).columns["one"].any()

    @pytest.mark.parametrize(
        ("lesson", "words"),
        [
            (None, "scope dataset and no method learn"),
            (lambda self, model, samples, ctx: None, "named arrays of numbers or texts, not None"),
            (lambda self, model, samples, ctx: {"mean": 0.5}, "named arrays of numbers"),
            (lambda self, model, samples, ctx: {1: np.zeros(1)}, "named arrays of numbers"),
            (lambda self, model, samples, ctx: {"mean": np.array([b"a"])}, "named arrays of numbers"),
            (
                lambda self, model, samples, ctx: {"mean": samples.images[0].mean().numpy()},
                "shuffled samples taught another mean",
            ),
            (
                lambda self, model, samples, ctx: {"mean": samples.images[: ctx.batch].double().mean().numpy()},
                "a batch of 1 taught another mean",
            ),
            (
                lambda self, model, samples, ctx: {"mean": np.array(0.5), f"batch {ctx.batch}": np.zeros(1)},
                "a batch of 1 taught arrays of other names",
            ),
            (lambda self, model, samples, ctx: {"mean": torch.rand(1).numpy()}, "changed torch's random state"),
            (lambda self, model, samples, ctx: (samples.images.zero_(), {"mean": np.zeros(1)})[1], "changed the image"),
        ],
    )
    def test_a_breach_in_learning_is_named(self, lesson, words):
        with pytest.raises(AssertionError, match=words):
            assert_contract(learner(lesson))

    def test_a_breach_in_judging_is_named(self):
        first = learner(honest, lambda samples, ctx: np.arange(len(samples)) < 2)
        with pytest.raises(AssertionError, match="shuffled samples gave another one"):
            assert_contract(first)


def joined(self, model, samples, ctx):
    """The brightness of each image of the second data set, and which is the brightest."""
    new = {"bright": samples.images.double().mean((1, 2, 3)).numpy(), "ids": np.array(samples.ids)}
    both = {name: np.concatenate([ctx.lesson[name], new[name]]) if ctx.lesson else new[name] for name in new}
    return both


def beside(samples, ctx):
    """Honest findings on samples, beside those of the second data set."""
    brightest = int(ctx.lesson["bright"].argmax())
    shown = Exhibit(f"{OUTSIDE}{ctx.lesson['ids'][brightest]}", "the brightest", 0.0, ())
    reference = ctx.calibration.samples.images.double().mean().item()
    return Findings(
        {"one": np.ones(len(samples), bool), "brightness": samples.images.double().mean((1, 2, 3)).numpy() - reference},
        (shown,),
        others={"ood_brightness": ctx.lesson["bright"] - reference},
    )


def outsider(learn=joined, body=beside):
    """Return a class of checks that compare samples with a second data set."""
    spec = Spec("made.outside", "t", "w", ONES, scope="outside")
    run = {"run": lambda self, model, samples, ctx: body(samples, ctx)}
    made = type("Outsider", (), {"spec": spec, **run, "learn": learn})
    made.__annotations__ = {"spec": ClassVar[Spec]}
    return dataclass(frozen=True)(made)


def only_the_last_shard(self, model, samples, ctx):
    return joined(self, model, samples, replace(ctx, lesson={}))


def shards_counted(self, model, samples, ctx):
    return {**joined(self, model, samples, ctx), "shards": np.array(int(ctx.lesson.get("shards", 0)) + 1)}


class TestChecksOfASecondDataSet:
    def test_an_honest_one_keeps_it(self):
        assert_contract(outsider())
        assert_contract(outsider()(), samples=toy_samples(9))

    @pytest.mark.parametrize(
        ("learn", "words"),
        [
            (only_the_last_shard, "a second data set in two shards taught another"),
            (shards_counted, "a second data set in two shards taught another shards"),
            (lambda self, model, samples, ctx: {"bright": [0.5]}, "named arrays of numbers or texts"),
        ],
    )
    def test_what_it_learns_may_not_depend_on_the_shards(self, learn, words):
        with pytest.raises(AssertionError, match=words):
            assert_contract(outsider(learn))

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (
                lambda samples, ctx: replace(
                    beside(samples, ctx), others={"ood": ctx.lesson["bright"] - ctx.lesson["bright"][0]}
                ),
                "shuffled samples gave another ood",
            ),
            (
                lambda samples, ctx: replace(
                    beside(samples, ctx), exhibits=(Exhibit(f"{OUTSIDE}{ctx.lesson['ids'][0]}", "the first", 0.0, ()),)
                ),
                "shuffled samples gave other exhibits",
            ),
            (
                lambda samples, ctx: replace(beside(samples, ctx), others={"ood": np.full(3, float(ctx.batch))}),
                "a batch of 1 gave another ood",
            ),
            (
                lambda samples, ctx: replace(beside(samples, ctx), others={f"ood{ctx.batch}": np.zeros(3)}),
                "a batch of 1 gave other numbers about other images",
            ),
            (
                lambda samples, ctx: replace(beside(samples, ctx), exhibits=(Exhibit("ood: nobody", "", 0.0, ()),)),
                "an exhibit of 'ood: nobody', which is no sample",
            ),
        ],
    )
    def test_a_breach_in_judging_is_named(self, body, words):
        with pytest.raises(AssertionError, match=words):
            assert_contract(outsider(body=body))

    def test_other_checks_may_not_show_images_that_are_no_samples(self):
        def body(samples, ctx):
            return Findings({"one": np.ones(len(samples), bool)}, (Exhibit("ood: toy0-0", "", 0.0, ()),))

        @dataclass(frozen=True)
        class Plain:
            spec: ClassVar[Spec] = Spec("made.plain", "t", "w", ONES)

            def run(self, model, samples, ctx):
                return body(samples, ctx)

        with pytest.raises(AssertionError, match="an exhibit of 'ood: toy0-0', which is no sample"):
            assert_contract(Plain)


def counting(tallies, conclude=lambda self, tallies: Conclusion()):
    """Return a class of checks with these tallies(samples, ctx)."""

    def run(self, model, samples, ctx):
        return Findings({"one": np.ones(len(samples), bool)}, tallies=tallies(samples, ctx))

    made = type("Counting", (), {"spec": Spec("made.tally", "t", "w", ONES), "run": run, "conclude": conclude})
    made.__annotations__ = {"spec": ClassVar[Spec]}
    return dataclass(frozen=True)(made)


def brightness(samples):
    return samples.images.double().mean((2, 3)).numpy()


class TestTallies:
    def test_an_honest_one_keeps_it(self):
        def honest_tallies(samples, ctx):
            values = brightness(samples)
            return {
                "sum": Tally(values.sum(0)),
                "largest": Tally(values.max(0), "largest"),
                "least": Tally(values.min(0), "least"),
            }

        assert_contract(counting(honest_tallies))

    @pytest.mark.parametrize(
        ("tallies", "words"),
        [
            (lambda samples, ctx: {"mean": Tally(brightness(samples).mean(0))}, "two shards gave another tally mean"),
            (
                lambda samples, ctx: {"most": Tally(brightness(samples).max(0))},
                "two shards gave another tally most",
            ),
            (
                lambda samples, ctx: {"first": Tally(brightness(samples)[0])},
                "shuffled samples gave another tally",
            ),
            (lambda samples, ctx: {"all": Tally(np.zeros(len(samples)))}, "two shards: .*cannot be combined"),
            (lambda samples, ctx: {"batch": Tally(np.array([ctx.batch]))}, "a batch of 1 gave another tally batch"),
            (lambda samples, ctx: {f"{ctx.batch}": Tally(np.zeros(1))}, "a batch of 1 gave other tallies"),
            (lambda samples, ctx: {"nan": Tally(np.array([np.nan]))}, "NaN in tally nan"),
        ],
    )
    def test_a_breach_is_named(self, tallies, words):
        with pytest.raises(AssertionError, match=words):
            assert_contract(counting(tallies))

    def test_something_else_than_a_conclusion_is_named(self):
        with pytest.raises(AssertionError, match="conclude returns a Conclusion, not"):
            assert_contract(counting(lambda samples, ctx: {"n": Tally(np.array([len(samples)]))}, lambda *_: "done"))


def reader(body, *patterns, needs=frozenset()):
    spec = Spec("made.reader", "t", "w", ONES, reads=patterns, needs=needs)

    @dataclass(frozen=True)
    class Reader:
        spec: ClassVar[Spec]

        def run(self, model, samples, ctx):
            return Findings({"one": np.asarray(body(samples, ctx), dtype=bool)})

    Reader.spec = spec
    return Reader


def fooled_by_all(samples, ctx):
    every = np.ones(len(samples), dtype=bool)
    for one in ctx.finished.values():
        every = every & one.columns["fooled"]
    return every


class TestReaders:
    def test_an_honest_reader_keeps_it_with_and_without_something_to_read(self):
        assert_contract(reader(fooled_by_all, "noise.*"))
        beside = (PGD(eps=(GREY,), steps=3), UniformNoise(eps=(32 * GREY,), draws=2))
        assert_contract(reader(fooled_by_all, "noise.*"), beside=beside)

    def test_it_reads_what_stands_beside_it(self):
        read = []

        def body(samples, ctx):
            read.append({key: (one.check, one.columns["fooled"].sum()) for key, one in ctx.finished.items()})
            return fooled_by_all(samples, ctx)

        attack = FGSM(eps=(2 * GREY,))
        assert_contract(reader(body, "noise.fgsm"), beside=(attack,))
        assert read[0]["noise.fgsm"][0] is attack
        assert read[0]["noise.fgsm"][1] > 0
        assert {} in read, "a reader must also do without"

    @pytest.mark.parametrize("needs", [frozenset(), frozenset({Capability.GRADIENTS})])
    def test_a_reader_that_cannot_do_without_is_named(self, needs):
        careless = reader(lambda samples, ctx: ctx.finished["noise.fgsm"].columns["fooled"], "noise.fgsm", needs=needs)
        with pytest.raises(KeyError, match=r"noise\.fgsm"):
            assert_contract(careless, beside=(FGSM(),))
        with pytest.raises(KeyError, match=r"noise\.fgsm"):
            assert_contract(careless)

    def test_a_reader_that_mixes_rows_up_is_named(self):
        def sorted_rows(samples, ctx):
            return np.sort(fooled_by_all(samples, ctx)) & bool(ctx.finished)

        with pytest.raises(AssertionError, match="shuffled samples gave another one"):
            assert_contract(reader(sorted_rows, "*"), beside=(FGSM(eps=(2 * GREY,)),))

    @pytest.mark.parametrize("patterns", [(), ("noise.pgd",), ("fgsm",)])
    def test_what_it_does_not_read_cannot_stand_beside_it(self, patterns):
        with pytest.raises(AssertionError, match=r"made\.reader does not read noise\.fgsm: it reads "):
            assert_contract(reader(fooled_by_all, *patterns), beside=(FGSM(),))

    def test_a_check_that_needs_gradients_may_read_and_learn(self):
        @dataclass(frozen=True)
        class Everything:
            spec: ClassVar[Spec] = Spec(
                "made.everything",
                "t",
                "w",
                ONES,
                frozenset({Capability.GRADIENTS}),
                scope="dataset",
                reads=("noise.*",),
            )

            def learn(self, model, samples, ctx):
                assert not ctx.finished or len(samples) == 11
                return {"steps": np.array(ctx.search.batch > 0)}

            def run(self, model, samples, ctx):
                assert ctx.lesson["steps"]
                assert all(len(one.columns["fooled"]) == len(samples) for one in ctx.finished.values())
                right = ctx.shelf.get(CLEAN_LOGITS).argmax(1) == samples.labels
                return Findings({"one": right.numpy()})

        assert_contract(Everything, beside=(FGSM(),))
