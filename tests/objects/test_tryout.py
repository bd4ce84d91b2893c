"""A detector is tried before anything is claimed of it, in torch and in ONNX, and is the same afterwards."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_detectors import SquareDetector, toy_scenes

from auditkit.errors import ExecutionError
from auditkit.models.base import Capability
from auditkit.models.loaded import digest_state
from auditkit.models.open import load_model
from auditkit.models.preprocess import Preprocessing
from auditkit.models.torch_files import load_module
from auditkit.objects.detections import Candidates
from auditkit.objects.judging import found_objects, match_objects
from auditkit.objects.tryout import Reading, search_detector, try_out_detector
from auditkit.precision import average_precision
from auditkit.samples import open_dataset

SHARED = Path(__file__).parents[3] / "shared" / "data"
COCO = SHARED / "coco"
CPU = torch.device("cpu")
SCENES = toy_scenes(6)


class InPixels(SquareDetector):
    """The same squares, in pixels of the image."""

    def forward(self, images):
        found = super().forward(images)
        height, width = images.shape[2:]
        return {**found, "boxes": found["boxes"] * torch.tensor([width, height, width, height])}


class Logits(SquareDetector):
    """Scores that are no probabilities."""

    def forward(self, images):
        found = super().forward(images)
        return {**found, "scores": found["scores"].logit()}


class OneImage(SquareDetector):
    """Boxes for one image, however many it is given."""

    def forward(self, images):
        return super().forward(images[:1])


class Grid(nn.Module):
    """Scores of squares as a grid (N, 3, rows, columns), the form that needs a function to decode it."""

    def __init__(self):
        super().__init__()
        self.inner = SquareDetector()

    def forward(self, images):
        n, _, height, width = images.shape
        scores = self.inner(images)["scores"].transpose(1, 2)
        return scores.reshape(n, 3, (height - 16) // 8 + 1, (width - 16) // 8 + 1)


def tried(network, reading=None, classes=3):
    loaded = load_module(network.eval(), CPU)
    return try_out_detector(loaded, Preprocessing(), SCENES.images, CPU, 16, classes, reading or Reading())


def decode_grid(output):
    """Boxes as shares of an image of 64 pixels."""
    n, _, rows, columns = output.shape
    top, left = torch.meshgrid(torch.arange(rows) / 8, torch.arange(columns) / 8, indexing="ij")
    boxes = torch.stack([left, top, left + 1 / 4, top + 1 / 4], 2).reshape(1, -1, 4).expand(n, -1, -1)
    return boxes, output.flatten(2).transpose(1, 2)


def test_the_squares_are_found_and_nothing_else_is():
    detector = tried(SquareDetector())
    found = detector.detect(SCENES.images)
    seen = found_objects(found, SCENES.objects, detector.score)
    assert all(bool(each.all()) for each in seen)
    assert (found.scores >= detector.score).sum(1).tolist() == [len(each) for each in SCENES.objects]
    assert detector.capabilities == {Capability.BOXES, Capability.GRADIENTS}
    assert detector.info.classes == 3


@pytest.mark.parametrize("units", ["auto", "pixels"])
def test_boxes_in_pixels_are_noticed(units):
    wanted, got = tried(SquareDetector()), tried(InPixels(), Reading(units=units))
    assert got.info.preprocessing["box_units"] == "pixels"
    assert torch.allclose(got.detect(SCENES.images).boxes, wanted.detect(SCENES.images).boxes)


def test_a_network_of_another_form_is_decoded_by_the_users_function():
    detector = tried(Grid(), Reading(decode_grid))
    assert torch.allclose(detector.detect(SCENES.images).scores, tried(SquareDetector()).detect(SCENES.images).scores)
    assert detector.exact is not None


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Logits(), "scores run from -.* wanted them in \\[0, 1\\]"),
        (OneImage(), "wanted boxes for 4 images, got them for 1"),
        (Grid(), "--decode path.py:decode; got one tensor"),
        (nn.Conv2d(5, 3, 1), "does not run on images of 3x64x64"),
    ],
)
def test_a_network_that_cannot_be_read_is_told_why_in_one_line(network, message):
    with pytest.raises(ExecutionError, match=message) as caught:
        tried(network)
    assert "\n" not in str(caught.value)


def test_a_detector_that_returns_nan_is_refused():
    network = SquareDetector()
    detector = tried(network)
    with torch.no_grad():
        network.slope.fill_(float("nan"))
    with pytest.raises(ExecutionError, match="not finite"):
        detector.detect(SCENES.images)


def test_trying_and_searching_leave_the_network_as_it_was():
    network = SquareDetector()
    before = digest_state(network.eval())
    detector = tried(network)
    search = search_detector(detector, SCENES.images)
    search.gradient(SCENES.images, lambda packed: Candidates(packed).scores.sum((1, 2)))
    assert digest_state(network) == before
    assert network.slope.grad is None


def test_the_search_copy_gives_what_the_deployed_detector_gives():
    detector = tried(SquareDetector())
    search = search_detector(detector, SCENES.images, "float32")
    assert torch.allclose(search.logits(SCENES.images), detector.deployed(SCENES.images), atol=1e-5)


def test_a_score_has_the_gradient_of_the_formula():
    # d sigmoid(12 (own - others - 0.6)) / d pixel = 12 s (1 - s) / 256 in the own channel, minus half of it in others.
    detector = tried(SquareDetector())
    images = torch.full((1, 3, 64, 64), 0.5)

    def first_score(packed):
        return Candidates(packed).scores[:, 0, 0]

    _, gradient = detector.exact.gradient(images, first_score)
    score = torch.sigmoid(torch.tensor(-7.2))
    slope = 12 * score * (1 - score) / 256
    assert torch.allclose(gradient[0, 0, :16, :16], slope.expand(16, 16))
    assert torch.allclose(gradient[0, 1:, :16, :16], -slope.expand(2, 16, 16) / 2)
    assert float(gradient[0, :, 16:].abs().sum()) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_exported_detector_with_two_outputs_is_read_by_their_names_and_has_gradients(tmp_path):
    class TwoOutputs(SquareDetector):
        def forward(self, images):
            found = super().forward(images)
            return found["scores"], found["boxes"]

    path = tmp_path / "squares.onnx"
    torch.onnx.export(
        TwoOutputs().eval(), (SCENES.images[:2],), str(path), input_names=["image"], output_names=["scores", "boxes"],
        dynamic_axes={name: {0: "n"} for name in ("image", "scores", "boxes")}, dynamo=False,
    )  # fmt: skip
    loaded = load_model(path, device=CPU)
    detector = try_out_detector(loaded, Preprocessing(), SCENES.images, CPU, 16, 3, Reading())
    wanted = tried(SquareDetector()).detect(SCENES.images)
    got = detector.detect(SCENES.images)
    assert torch.allclose(got.boxes, wanted.boxes, atol=1e-5)
    assert torch.equal(got.classes, wanted.classes)
    assert detector.no_gradients is None
    assert "twin" in detector.gradient_source


def test_a_detector_that_insists_on_its_batch_size_is_given_just_so_many():
    class OfThree(SquareDetector):
        def forward(self, images):
            if len(images) != 3:
                raise ValueError("three images, please")
            return super().forward(images)

    loaded = replace(load_module(OfThree().eval(), CPU), fixed_batch=3)
    detector = try_out_detector(loaded, Preprocessing(), SCENES.images, CPU, 16, 3, Reading())
    assert torch.equal(
        detector.detect(SCENES.images[:4]).scores, tried(SquareDetector()).detect(SCENES.images[:4]).scores
    )


def coco_samples():
    if not COCO.is_dir():
        pytest.skip(f"the shared detector and its images are not there: {COCO}")
    return open_dataset(COCO / "images", boxes=COCO / "annotations.json", resize=(352, 352)).read(0, 32).samples


def real_detector(samples, name):
    reading = Reading(decode_detections())
    if name == "onnx":
        loaded, steps = load_model(COCO / "fastestdet.onnx", device=CPU), Preprocessing(channel_order="bgr")
    else:
        factory = f"{SHARED / 'models.py'}:fastestdet_rgb"
        loaded, steps = load_model(factory, weights=COCO / "fastestdet.safetensors", device=CPU), Preprocessing()
    return loaded, try_out_detector(loaded, steps, samples.images, CPU, 16, 80, reading)


def decode_detections():
    from auditkit.imports import import_object

    return import_object(f"{SHARED / 'models.py'}:decode_detections")


def test_a_real_detector_has_the_published_precision_in_both_formats_and_stays_bit_identical():
    samples = coco_samples()
    found = {}
    for name in ("onnx", "torch"):
        loaded, detector = real_detector(samples, name)
        before = digest_state(loaded.network) if name == "torch" else None
        found[name] = detector.detect(samples.images)
        matches = match_objects(found[name], samples.objects)
        precisions = [average_precision(matches, 32, iou).value for iou in (0.5, 0.75, None)]
        assert precisions == pytest.approx([0.397, 0.263, 0.242], abs=1e-3)
        assert detector.exact is not None
        if before is not None:
            search_detector(detector, samples.images, "float32").gradient(
                samples.images[:2], lambda packed: Candidates(packed).scores.sum((1, 2))
            )
            assert digest_state(loaded.network) == before
    assert torch.allclose(found["onnx"].scores, found["torch"].scores, atol=1e-3)
    sure = found["onnx"].scores >= 0.3
    assert torch.equal(found["onnx"].classes[sure], found["torch"].classes[sure])
