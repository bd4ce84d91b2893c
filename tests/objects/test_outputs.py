"""What detectors return is read in every usual form, and what is no such form is told what was wanted."""

import pytest
import torch

from auditkit.errors import ExecutionError
from auditkit.objects.detections import Candidates
from auditkit.objects.outputs import Decoder

BOXES = torch.tensor([[[8.0, 4.0, 24.0, 12.0], [0.0, 0.0, 32.0, 16.0]], [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])
SCORES = torch.tensor([[0.9, 0.2], [0.5, 0.4]])
CLASSES = torch.tensor([[2, 0], [1, 1]])
SPREAD = torch.tensor([[[0, 0, 0.9], [0.2, 0, 0]], [[0, 0.5, 0], [0, 0.4, 0]]])


def listed():
    """As torchvision returns it: a mapping an image."""
    return [{"boxes": b, "labels": c, "scores": s} for b, c, s in zip(BOXES, CLASSES, SCORES, strict=True)]


FORMS = {
    "three tensors": (BOXES, SCORES, CLASSES),
    "classes as floats": (BOXES, SCORES, CLASSES.float()),
    "scores of all classes": (BOXES, SPREAD),
    "a mapping": {"pred_boxes": BOXES, "scores": SCORES, "labels": CLASSES},
    "a mapping without labels": {"boxes": BOXES, "scores": SPREAD},
    "a list of mappings": listed(),
    "six numbers a box": torch.cat([BOXES, SCORES.unsqueeze(2), CLASSES.float().unsqueeze(2)], 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_alike(form):
    packed = Candidates(Decoder(3, "pixels")(FORMS[form], (16, 32)))
    assert torch.allclose(packed.boxes[0, 0], torch.tensor([0.25, 0.25, 0.75, 0.75]))
    assert torch.equal(packed.scores, SPREAD)


def test_outputs_are_known_by_the_names_that_a_file_gives_them():
    decoder = Decoder(3, "shares", names=("out/scores", "out/labels", "out/boxes"))
    boxes, scores = decoder.read((SCORES, CLASSES, BOXES))
    assert torch.equal(boxes, BOXES)
    assert torch.equal(scores, SPREAD)


def test_images_with_different_numbers_of_boxes_are_padded_with_nothing():
    each = listed()
    each[1] = {name: value[:0] for name, value in each[1].items()}
    boxes, scores = Decoder(3, "shares").read(each)
    assert boxes.shape == (2, 2, 4)
    assert float(scores[1].sum()) == 0
    empty = [{name: value[:0] for name, value in image.items()} for image in each]
    assert Decoder(3, "shares").read(empty)[0].shape == (2, 0, 4)


def test_a_function_of_the_users_decodes_whatever_it_is():
    grid = torch.rand(2, 7, 2, 2)

    def decode(output):
        flat = output.flatten(2).transpose(1, 2)
        return flat[..., :4], flat[..., 4:]

    boxes, scores = Decoder(3, "shares", decode).read(grid)
    assert boxes.shape == (2, 4, 4)
    assert scores.shape == (2, 4, 3)


def test_gradients_reach_what_was_decoded():
    scores = SCORES.clone().requires_grad_()
    Candidates(Decoder(3, "shares")((BOXES, scores, CLASSES), (16, 32))).scores.sum().backward()
    assert torch.equal(scores.grad, torch.ones_like(scores))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.rand(2, 85, 4, 4), r"got one tensor \(2, 85, 4, 4\)"),
        ((BOXES,), "got \\['Tensor'\\]"),
        ((BOXES, SCORES, CLASSES + 1), "named class 3, and there are classes 0 to 2; --classes says"),
        ((BOXES, SCORES), r"here \(2, 2, ...\); got \(2, 2\)"),
        ((BOXES[..., :3], SCORES, CLASSES), r"boxes are \(images, boxes, 4\) numbers; got \(2, 2, 3\)"),
        ((BOXES, SCORES[:, :1], CLASSES), "one number a box"),
        ({"logits": SCORES}, "got a mapping with logits"),
        ("nonsense", "got str"),
    ],
)
def test_what_is_no_such_form_is_told_in_one_line(output, message):
    with pytest.raises(ExecutionError, match=message) as caught:
        Decoder(3, "shares")(output, (16, 32))
    assert "\n" not in str(caught.value)


def test_a_function_that_fails_says_how():
    with pytest.raises(ExecutionError, match="--decode failed: KeyError: 'boxes'"):
        Decoder(3, "shares", lambda output: output["boxes"]).read({})


@pytest.mark.parametrize(("form", "raw"), [("a list of mappings", False), ("scores of all classes", True)])
def test_boxes_that_lie_on_each_other_are_told_from_detections(form, raw):
    assert Decoder(3, "shares").has_scores_of_all(FORMS[form]) is raw
    assert Decoder(3, "shares", lambda output: output).has_scores_of_all(FORMS[form])
