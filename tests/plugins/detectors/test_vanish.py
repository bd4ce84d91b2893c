"""A texture makes objects vanish where arithmetic says that it can, and neither noise nor grey does so."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_detectors import SquareDetector, toy_scenes

from auditkit.findings import metrics
from auditkit.models.loaded import digest_state
from auditkit.objects.tryout import Reading, try_out_detector
from auditkit.samples import Objects, Samples, open_dataset
from auditkit.testing import assert_contract, run_check, run_learn, toy_detector
from auditkit_plugins.detectors.training_pool import training_pool
from auditkit_plugins.detectors.vanish import Vanish

SHARED = Path(__file__).parents[4] / "shared" / "data"
# A red square of brightness 0.9 is found at 0.3 where own - others > 0.53. Under a share a of grey or noise it is about
# 0.9 (1 - a), under cyan 0.9 (1 - a) - a: at a quarter of the square only cyan makes it vanish.
AREA = 0.25


def red_scenes(n, seed=0):
    """Scenes with one square each, all of them red."""
    scenes = toy_scenes(n, seed, most=1)
    images = torch.stack(
        [image.roll(-label, 0) for image, label in zip(scenes.images, scenes.labels.tolist(), strict=True)]
    )
    objects = tuple(Objects(o.boxes, torch.zeros_like(o.classes), o.crowd, o.size) for o in scenes.objects)
    return Samples(images, torch.zeros_like(scenes.labels), scenes.ids, objects=objects)


@pytest.fixture(scope="module")
def judged():
    samples = red_scenes(24)
    detector = toy_detector(SquareDetector(), samples)
    check = Vanish(area=(0.1, AREA), steps=60, mini_batch=8, side=8, draws=2)
    lesson = run_learn(check, detector, samples.take(range(12)))
    findings = run_check(check, detector, samples.take(range(12, 24)), lesson=lesson)
    return lesson, metrics(Vanish.spec, findings.columns, matches=findings.matches)[0], findings


def test_the_texture_becomes_the_colour_that_hides_the_objects(judged):
    red, green, blue = judged[0]["tile"][0].mean((1, 2))
    assert red < 0.2
    assert min(green, blue) > 0.8


def test_objects_vanish_under_the_texture_and_not_under_noise_or_grey(judged):
    estimates = judged[1]
    assert estimates[f"vanish_rate@{AREA}"].value == 1
    assert estimates[f"noise_vanish_rate@{AREA}"].value == 0
    assert estimates[f"plain_vanish_rate@{AREA}"].value == 0
    assert estimates["vanish_rate@0.1"].value == 0
    assert estimates["vanish_rate"] == estimates[f"vanish_rate@{AREA}"]


def test_average_precision_falls_with_the_texture_on_every_object(judged):
    estimates = judged[1]
    assert estimates["clean_ap50"].value == 1
    # What vanishes is still among the detections, but below what the true classes of others reach.
    assert estimates[f"ap50@{AREA}"].value <= estimates[f"plain_ap50@{AREA}"].value == 1
    assert estimates["ap50_drop"].value == pytest.approx(1 - estimates["ap50"].value)


def test_exhibits_show_what_vanished_before_and_after(judged):
    exhibit = judged[2].exhibits[0]
    clean, worn, print_out = exhibit.panels
    assert [mark.tone for mark in clean.marks] == ["found"]
    assert [mark.tone for mark in worn.marks] == ["lost"]
    assert print_out.marks == ()
    assert "vanishes under a texture on 25% of its box" in exhibit.caption


@pytest.mark.parametrize("options", [{}, {"layout": "four", "draws": 2}, {"place": "beside"}])
def test_the_contract_is_kept(options):
    quick = {"steps": 4, "mini_batch": 4, "side": 8, "area": (0.1, 0.2)}
    assert_contract(Vanish, options={**quick, **options}, network=SquareDetector(), samples=toy_scenes(12))


def test_smooth_and_printable_textures_are_smoother_and_more_printable():
    samples = red_scenes(12)
    detector = toy_detector(SquareDetector(), samples)

    def tile(**more):
        check = Vanish(area=(AREA,), steps=40, mini_batch=6, side=8, **more)
        return run_learn(check, detector, samples)["tile"]

    def variation(texture):
        return np.abs(texture - np.roll(texture, 1, 2)).mean()

    assert variation(tile(smoothness=100.0)) < 0.5 * variation(tile())
    from auditkit_plugins.printable import non_printability

    plain, printable = (non_printability(torch.from_numpy(each)) for each in (tile(), tile(printability=100.0)))
    assert float(printable) < 0.5 * float(plain)


def test_images_without_anything_to_find_teach_and_lose_nothing():
    scenes = toy_scenes(6)
    empty = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool), (64, 64))
    samples = Samples(torch.zeros_like(scenes.images), scenes.labels, scenes.ids, objects=(empty,) * 6)
    detector = toy_detector(SquareDetector(), scenes)
    check = Vanish(steps=2, mini_batch=2, side=4)
    findings = run_check(check, detector, samples, lesson=run_learn(check, detector, samples))
    assert findings.columns["found"].tolist() == [0] * 6
    assert metrics(Vanish.spec, findings.columns, matches=findings.matches)[0] == {}


def test_places_and_sizes_are_drawn_anew_at_every_step(monkeypatch):
    samples, scenes = red_scenes(4), []
    real = Vanish._scene

    def watched(self, *given):
        scenes.append(real(self, *given))
        return scenes[-1]

    monkeypatch.setattr("auditkit_plugins.detectors.training_pool._FEWEST", 4)
    monkeypatch.setattr(Vanish, "_scene", watched)
    run_learn(Vanish(steps=3, mini_batch=4, side=8, area=(0.2, 0.5)), toy_detector(SquareDetector(), samples), samples)
    seen = [{(piece.height, piece.width, piece.contrast) for piece in scene.pieces} for scene in scenes]
    assert len(seen[0]) > 0
    assert not seen[0] & seen[1]
    assert not seen[1] & seen[2]


def test_few_training_images_are_made_more_by_crops_and_only_sure_detections_count():
    samples = toy_scenes(5)
    detector = toy_detector(SquareDetector(), samples)
    contexts = []

    class Looking(Vanish):
        def learn(self, detector, samples, ctx):
            contexts.append(training_pool(detector, samples, ctx))
            return {"tile": np.zeros((1, 3, 4, 4), dtype=np.float32)}

    run_learn(Looking(), detector, samples)
    run_learn(Looking(), detector, samples.take([4, 2, 0, 1, 3]))
    pool, again = contexts
    assert len(pool) == 195
    assert torch.equal(pool.images, again.images)
    assert torch.equal(pool.images[:5], samples.images)
    assert float(pool.images.min()) >= 0
    assert float(pool.images.max()) <= 1
    sure = pool.found.scores[pool.found.scores > 0]
    assert float(sure.min()) >= detector.score
    assert (pool.found.scores > 0).any(1).float().mean() > 0.5


@pytest.mark.parametrize("area", [(0.0,), (1.1,), (-0.1,)])
def test_shares_that_are_none_are_refused(area):
    with pytest.raises(ValueError, match="share of an object's box"):
        Vanish(area=area)


def test_a_real_detector_loses_objects_under_a_texture_and_stays_bit_identical(monkeypatch):
    if not (SHARED / "coco").is_dir():
        pytest.skip(f"the shared detector and its images are not there: {SHARED}")
    from auditkit.imports import import_object
    from auditkit.models.open import load_model
    from auditkit.models.preprocess import Preprocessing

    monkeypatch.setattr("auditkit_plugins.detectors.training_pool._FEWEST", 4)
    coco, cpu = SHARED / "coco", torch.device("cpu")
    samples = open_dataset(coco / "images", boxes=coco / "annotations.json", resize=(352, 352)).read(0, 8).samples
    loaded = load_model(f"{SHARED / 'models.py'}:fastestdet_rgb", weights=coco / "fastestdet.safetensors", device=cpu)
    before = digest_state(loaded.network)
    decode = import_object(f"{SHARED / 'models.py'}:decode_detections")
    detector = try_out_detector(loaded, Preprocessing(), samples.images, cpu, 16, 80, Reading(decode))
    check = Vanish(area=(0.2,), steps=3, mini_batch=4)
    findings = run_check(
        check, detector, samples.take(range(4, 8)), lesson=run_learn(check, detector, samples.take(range(4)))
    )
    assert findings.columns["found"].sum() > 5
    assert digest_state(loaded.network) == before
