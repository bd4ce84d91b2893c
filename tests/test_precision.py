"""Average precision: pycocotools' value, of images drawn again as well, and an interval that claims not too much."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io

import numpy as np
import pytest
from coco_reference import precisions, whole_pipeline
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools.cocoeval import COCOeval
from scipy import stats

from auditkit import precision
from auditkit.objects.matching import Annotated, Found, match
from auditkit.precision import (
    IOU_THRESHOLDS,
    Matches,
    average_precision,
    category_precision,
    check_matches,
    join_matches,
    precision_drop,
)

EVERY_THRESHOLD = [*IOU_THRESHOLDS, None]


def matches_of(detections, objects):
    """Make matches from rows (image, category, score, hits, ignored) and (image, category); hits are 10 or one."""
    image, category, score, hit, ignored = zip(*detections, strict=True) if detections else [()] * 5
    object_image, object_category = zip(*objects, strict=True) if objects else [()] * 2
    return Matches(
        np.array(image, dtype=np.int64),
        np.array(category, dtype=np.int64),
        np.array(score, dtype=np.float32),
        np.array([np.broadcast_to(each, 10) for each in hit], dtype=np.bool_).reshape(-1, 10),
        np.array([np.broadcast_to(each, 10) for each in ignored], dtype=np.bool_).reshape(-1, 10),
        np.array(object_image, dtype=np.int64),
        np.array(object_category, dtype=np.int64),
    )


def one_object_each(found, false_alarms=0):
    """Make matches of images with one object each: `found` (N,) says which are found; then come false alarms."""
    hits = [(row, 0, 0.9, True, False) for row in np.flatnonzero(found)]
    alarms = [(row, 0, 0.5, False, False) for row in range(false_alarms)]
    return matches_of(hits + alarms, [(row, 0) for row in range(len(found))])


def accumulated(matches, n):
    """Return what COCOeval.accumulate makes of the matches: AP at each threshold and the mean."""
    evaluator = COCOeval(iouType="bbox")
    known = np.unique(np.r_[matches.category, matches.object_category]).tolist()
    evaluator.params.imgIds, evaluator.params.catIds = list(range(n)), known
    evaluator.params.areaRng, evaluator.params.maxDets = [[0, 1e10]], [1000]
    evaluator.evalImgs = [_entry(matches, image, category) for category in known for image in range(n)]
    evaluator._paramsEval = copy.deepcopy(evaluator.params)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    return precisions(evaluator)


def _entry(matches, image, category):
    ours = np.flatnonzero((matches.image == image) & (matches.category == category))
    ours = ours[np.argsort(-matches.score[ours], kind="mergesort")]
    objects = int(((matches.object_image == image) & (matches.object_category == category)).sum())
    return {
        "dtScores": matches.score[ours].astype(float).tolist(),
        "dtMatches": (matches.hit | matches.ignored)[ours].T.astype(float),
        "dtIgnore": matches.ignored[ours].T,
        "gtIgnore": np.zeros(objects),
    }


@st.composite
def any_matches(draw):
    """Draw matches of up to five images, with ties of scores, ignored detections and images without anything."""
    n = draw(st.integers(1, 5))
    objects = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, 2)), max_size=25))
    left = {place: np.full(10, objects.count(place)) for place in objects}
    detections = []
    for image, category in draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, 3)), max_size=40)):
        kinds = np.array(draw(st.lists(st.sampled_from([0, 0, 1, 1, 2]), min_size=10, max_size=10)))
        rest = left.get((image, category), np.zeros(10, dtype=int))
        hit = (kinds == 1) & (rest > 0)
        rest -= hit
        detections.append((image, category, draw(st.integers(0, 12)) / 12, hit, kinds == 2))
    return matches_of(detections, objects), n


@settings(deadline=None, max_examples=150)
@given(any_matches())
def test_average_precision_is_that_of_pycocotools_at_each_threshold_and_on_average(drawn):
    matches, n = drawn
    assert check_matches(matches, n) is None
    wanted = accumulated(matches, n) if len(matches.object_image) else None
    for column, iou in enumerate(EVERY_THRESHOLD):
        found = average_precision(matches, n, iou)
        assert (found is None) == (wanted is None)
        if found is not None:
            assert found.value == pytest.approx(wanted[column], abs=1e-12)
            assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize("objects", range(1, 120))
def test_recall_points_are_reached_exactly_where_pycocotools_reaches_them(objects):
    matches = matches_of(
        [(0, 0, 1 - row / 999, row % 3 < 2, False) for row in range(objects)], [(0, 0) for _ in range(objects)]
    )
    assert average_precision(matches, 1, 0.5).value == pytest.approx(accumulated(matches, 1)[0], abs=1e-12)


def scattered(generator, n):
    """Draw boxes in `n` images, some found well, some badly, some not, beside false alarms; no score twice."""
    found, annotated = [], []
    for _ in range(n):
        corner, side = generator.random((3, 2)) * 0.6, generator.random((3, 2)) * 0.3 + 0.05
        true = np.concatenate([corner, corner + side], axis=1)
        kinds = generator.integers(0, 3, 3)
        seen = np.concatenate([true + generator.normal(0, 0.02, true.shape), true[::-1] * 0.7])
        categories = np.r_[kinds, generator.integers(0, 3, 3)]
        found.append(Found(seen, generator.random(6).astype(np.float32), categories))
        crowd = generator.random(3) < 0.2
        annotated.append(Annotated(true, kinds, crowd, (int(generator.integers(50, 400)), 300)))
    return found, annotated


@pytest.mark.parametrize("seed", range(20))
def test_weights_of_images_are_worth_as_many_copies_of_them_to_pycocotools(seed):
    generator = np.random.default_rng(seed)
    found, annotated = scattered(generator, 9)
    rows = np.sort(generator.integers(0, 9, 9))
    wanted = precisions(whole_pipeline([found[row] for row in rows], [annotated[row] for row in rows]))
    matches, weights = match(found, annotated, range(9)), np.bincount(rows, minlength=9).astype(float)
    beside = np.stack([np.ones(9), weights])
    for column in range(10):
        assert precision._statistic(matches, 9, np.array([column]))(beside)[1] == pytest.approx(
            wanted[column], abs=1e-12
        )
    assert precision._statistic(matches, 9, np.arange(10))(beside)[1] == pytest.approx(wanted[10], abs=1e-12)


def test_draws_of_images_without_objects_have_no_precision():
    matches = matches_of([(0, 0, 0.9, True, False), (1, 0, 0.8, False, False)], [(0, 0)])
    values = precision._statistic(matches, 2, np.array([0]))(np.array([[0.0, 2.0], [2.0, 0.0]]))
    assert np.isnan(values[0])
    assert values[1] == 1


def test_several_draws_of_a_patch_count_each_and_the_image_stays_the_unit():
    found, annotated = scattered(np.random.default_rng(3), 12)
    once = match(found, annotated, range(12))
    thrice = match(found * 3, annotated * 3, [*range(12)] * 3)
    plain, repeated = average_precision(once, 12, 0.5), average_precision(thrice, 12, 0.5)
    assert (repeated.value, repeated.low, repeated.high) == pytest.approx((plain.value, plain.low, plain.high))
    assert repeated.n == 12


def test_the_interval_is_the_bootstraps_over_images_and_wider_for_few_as_hesterberg_has_it():
    generator = np.random.default_rng(0)
    values = generator.normal(size=10)
    found = precision._bootstrap(lambda weights: weights @ values / 10, float(values.mean()), 10, 10, 1)
    draws = generator.choice(values, (100_000, 10)).mean(axis=1)
    # Student's 97.5 % point for 9 degrees, and the bias of the standard deviation of 10.
    tail = stats.norm.cdf(-2.2622 * np.sqrt(10 / 9))
    assert found == pytest.approx(np.quantile(draws, [tail, 1 - tail]), abs=0.15 * draws.std())


def test_an_interval_of_images_half_of_which_are_found_holds_the_half():
    found = average_precision(one_object_each(np.arange(60) % 2 == 0), 60, 0.5)
    # Without a false alarm, precision is 1 up to the recall, which is the share of images whose object is found.
    assert found.value == pytest.approx(51 / 101)
    assert (found.low, found.high) == pytest.approx((0.37, 0.63), abs=0.03)
    assert (found.n, found.method) == (60, "bootstrap over images (percentile)")


def test_draws_without_objects_leave_the_interval_finite(monkeypatch):
    monkeypatch.setattr(precision, "_FEWEST_IMAGES", 2)
    matches = matches_of([(0, 0, 0.9, True, False), (5, 0, 0.8, False, False)], [(0, 0), (1, 0)])
    found = average_precision(matches, 30, 0.5)
    assert 0 <= found.low < found.value < found.high <= 1


def test_the_interval_is_the_same_each_time_and_leaves_the_global_generator_alone():
    matches = match(*scattered(np.random.default_rng(5), 20), range(20))
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert average_precision(matches, 20) == average_precision(matches, 20)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_neither_memory_nor_time_are_bought_with_another_interval(monkeypatch):
    matches = match(*scattered(np.random.default_rng(5), 20), range(20))
    wanted = average_precision(matches, 20)
    monkeypatch.setattr(precision, "_ELEMENTS", 1000)
    assert average_precision(matches, 20) == wanted
    sizes = []
    original = np.bincount
    monkeypatch.setattr(precision, "_RESAMPLED_DETECTIONS", 1)
    monkeypatch.setattr(np, "bincount", lambda *args, **kinds: sizes.append(len(args[0])) or original(*args, **kinds))
    fewer = average_precision(matches, 20)
    assert max(sizes) <= 1000
    assert sum(size for size in sizes if size % 20 == 0 and size > 100) == 400 * 20
    assert (fewer.low, fewer.high) == pytest.approx((wanted.low, wanted.high), abs=0.05)


@pytest.mark.parametrize("all_found", [True, False])
def test_what_all_images_share_is_not_certain_of_images_not_seen(all_found):
    n, value = 40, float(all_found)
    found = average_precision(one_object_each(np.full(n, all_found)), n, 0.5)
    unseen = 1 - 0.025 ** (1 / n)
    assert (found.low, found.value, found.high) == pytest.approx(
        (1 - unseen, 1, 1) if all_found else (0, 0, unseen), abs=1e-12
    )
    assert found.value == value


def test_one_miss_among_many_hits_leaves_room_for_more():
    found = average_precision(one_object_each(np.arange(40) > 0), 40, 0.5)
    assert found.low <= found.value - (1 - 0.025 ** (1 / 40)) * found.value


@pytest.mark.parametrize(("with_objects", "n"), [(1, 1), (7, 7), (7, 50)])
def test_fewer_than_eight_images_with_objects_leave_everything_possible(with_objects, n):
    matches = one_object_each(np.full(with_objects, True), false_alarms=n)
    found, drop = average_precision(matches, n, 0.5), precision_drop(matches, matches, n, 0.5)
    assert (found.low, found.high, drop.low, drop.high) == (0, 1, -1, 1)
    assert found.method == drop.method == "everything possible (fewer than 8 images with objects)"
    assert "bootstrap" in average_precision(one_object_each(np.full(8, True)), 8, 0.5).method


def test_a_drop_is_the_difference_and_its_interval_knows_that_the_images_are_the_same():
    generator = np.random.default_rng(11)
    before = one_object_each(generator.random(300) < 0.5)
    hit = before.hit.copy()
    hit[:30] = False
    after = dataclasses.replace(before, hit=hit)
    drop = precision_drop(before, after, 300, 0.5)
    first, second = average_precision(before, 300, 0.5), average_precision(after, 300, 0.5)
    assert drop.value == pytest.approx(first.value - second.value, abs=1e-12)
    assert 0 < drop.low < drop.value < drop.high
    assert drop.high - drop.low < 0.8 * np.hypot(first.high - first.low, second.high - second.low)
    back = precision_drop(after, before, 300, 0.5)
    assert (back.low, back.value, back.high) == pytest.approx((-drop.high, -drop.value, -drop.low), abs=2e-3)


def test_no_drop_is_not_certain_either():
    matches = one_object_each(np.arange(50) % 3 > 0)
    drop = precision_drop(matches, matches, 50)
    unseen = 1 - 0.025 ** (1 / 50)
    assert (drop.low, drop.value, drop.high) == pytest.approx((-unseen, 0, unseen), abs=1e-12)


def test_each_category_has_its_own_precision_and_their_mean_is_the_whole():
    matches = match(*scattered(np.random.default_rng(2), 30), range(30))
    extra = dataclasses.replace(matches, category=np.where(matches.category == 2, 7, matches.category))
    for iou in (0.5, None):
        found = category_precision(matches, 30, iou)
        assert list(found) == [0, 1, 2]
        assert np.mean([each.value for each in found.values()]) == pytest.approx(
            average_precision(matches, 30, iou).value, abs=1e-12
        )
    assert category_precision(extra, 30, 0.5)[2].value == 0
    assert 7 not in category_precision(extra, 30, 0.5)


def test_where_there_is_no_object_there_is_no_precision():
    nothing = matches_of([(0, 1, 0.5, False, False)], [])
    something = one_object_each(np.full(9, True))
    assert average_precision(nothing, 3) is None
    assert precision_drop(nothing, something, 9) is None
    assert precision_drop(something, nothing, 9) is None
    assert category_precision(nothing, 3) == {}


@pytest.mark.parametrize("iou", [0.3, 0.51, 1.0, float("nan")])
def test_a_threshold_that_was_not_matched_is_refused(iou):
    for ask in (average_precision, category_precision):
        with pytest.raises(ValueError, match=r"one of 0\.5, 0\.55"):
            ask(one_object_each(np.full(9, True)), 9, iou)


@settings(deadline=None, max_examples=30)
@given(st.lists(any_matches(), max_size=3))
@example([])
def test_shards_joined_are_the_images_one_after_the_other(shards):
    parts, rows = [part for part, _ in shards], [n for _, n in shards]
    joined = join_matches(parts, rows)
    assert check_matches(joined, max(sum(rows), 1)) is None
    starts = np.cumsum([0, *rows])
    for part, start, stop in zip(parts, starts, starts[1:], strict=False):
        ours, objects = ((start <= images) & (images < stop) for images in (joined.image, joined.object_image))
        assert (joined.image[ours] - start == part.image).all()
        assert (joined.object_image[objects] - start == part.object_image).all()
        for name in ("category", "score", "hit", "ignored"):
            assert (getattr(joined, name)[ours] == getattr(part, name)).all()
        assert (joined.object_category[objects] == part.object_category).all()


GOOD = matches_of([(0, 3, 0.5, True, False), (1, 3, 0.25, False, True)], [(0, 3), (1, 4)])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"image": np.array([0, 2])}, "image within 0..1, not 0..2"),
        ({"object_image": np.array([-1, 0])}, "object_image within 0..1, not -1..0"),
        ({"image": np.array([0, 1], dtype=np.int32)}, "image as int64 (2,), not int32 (2,)"),
        ({"image": np.array(1)}, "image as int64 (1,), not int64 ()"),
        ({"category": np.array([3])}, "category as int64 (2,), not int64 (1,)"),
        ({"score": np.array([0.5, 0.2])}, "score as float32 (2,), not float64 (2,)"),
        ({"score": np.array([0.5, np.nan], dtype=np.float32)}, "finite scores"),
        ({"score": [0.5, 0.2]}, "score as float32 (2,), not list"),
        ({"hit": np.zeros((2, 9), dtype=bool)}, "hit as bool (2, 10), not bool (2, 9)"),
        ({"ignored": np.ones((2, 10), dtype=bool)}, "to hit an object or to be ignored, not both"),
        ({"object_category": np.array([3, 4, 5])}, "object_category as int64 (2,), not int64 (3,)"),
        ({"object_category": np.array([4, 4])}, "not more hits than objects (image 0, category 3)"),
    ],
)
def test_malformed_matches_are_told_in_one_line(changes, problem):
    assert check_matches(GOOD, 2) is None
    assert problem in check_matches(dataclasses.replace(GOOD, **changes), 2)
