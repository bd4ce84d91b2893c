"""From candidates to detections: suppression as everybody does it, whatever the batch, and boxes inside the image."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditkit.objects.boxes import areas, overlaps
from auditkit.objects.detections import Candidates, Detections, Suppression, join_detections, pack


def overlap(first, second):
    """Intersection over union of two boxes, the slow way."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    common = max(wide, 0.0) * max(high, 0.0)
    size = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return common / (size[0] + size[1] - common)


def greedy(boxes, scores, classes, most, least):
    """Return which candidates stay: the surest first, each silences those of its class that overlap it by more."""
    order = sorted((at for at in range(len(scores)) if scores[at] > least), key=lambda at: -scores[at])
    kept = []
    for at in order:
        like = (other for other in kept if classes[other] == classes[at])
        if all(overlap(boxes[other], boxes[at]) <= most for other in like):
            kept.append(at)
    return kept


def random_candidates(seed, n=3, places=40, classes=2):
    generator = np.random.default_rng(seed)
    low = generator.uniform(0, 0.7, (n, places, 2))
    boxes = np.concatenate([low, low + generator.uniform(0.05, 0.5, (n, places, 2))], 2)
    # Few different scores, so that ties occur.
    scores = generator.integers(0, 12, (n, places, classes)) / 12
    return torch.from_numpy(boxes).float(), torch.from_numpy(scores).float()


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.45, 0.7]))
def test_suppression_is_the_greedy_one(seed, most):
    boxes, scores = random_candidates(seed)
    found = Suppression(most, least=0.1)(Candidates(pack(boxes, scores)))
    for row in range(len(boxes)):
        best, classes = scores[row].max(1)
        kept = greedy(boxes[row].tolist(), best.tolist(), classes.tolist(), most, 0.1)
        used = int((found.scores[row] > 0).sum())
        assert used == len(kept)
        assert torch.equal(found.scores[row, :used], best[kept])
        assert torch.equal(found.classes[row, :used], classes[kept])
        assert torch.equal(found.boxes[row, :used], boxes[row, kept].clamp(0, 1))
        assert (found.classes[row, used:] == -1).all()


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_an_image_is_suppressed_alike_in_any_batch(seed):
    boxes, scores = random_candidates(seed, n=4)
    suppression = Suppression()
    together = suppression(Candidates(pack(boxes, scores)))
    alone = [suppression(Candidates(pack(boxes[row : row + 1], scores[row : row + 1]))) for row in (2, 0)]
    joined = join_detections(alone)
    taken = together.take(torch.tensor([2, 0]))
    for name in ("boxes", "scores", "classes"):
        assert torch.equal(getattr(joined, name), getattr(taken, name))


def test_no_more_than_so_many_detections_are_reported_and_they_are_the_surest():
    boxes = torch.stack([torch.tensor([0.0, 0.0, 0.01, 0.01]) + 0.012 * at for at in range(60)]).unsqueeze(0)
    scores = torch.linspace(0.2, 0.9, 60).view(1, 60, 1)
    found = Suppression(most=7)(Candidates(pack(boxes, scores)))
    assert found.scores.shape == (1, 7)
    assert torch.equal(found.scores[0], scores[0, :, 0].flip(0)[:7])


def test_without_an_overlap_everything_sure_enough_stays():
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0]] * 3])
    found = Suppression(None)(Candidates(pack(boxes, torch.tensor([[[0.5], [0.009], [0.7]]]))))
    assert found.scores[0, :3].tolist() == [np.float32(0.7), 0.5, 0.0]


def test_boxes_are_cut_off_at_the_edges_after_suppression_and_not_before():
    # Cut off first, both would be the same box, and the second would be silenced.
    boxes = torch.tensor([[[-3.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.5, 1.0]]])
    found = Suppression()(Candidates(pack(boxes, torch.tensor([[[0.9], [0.8]]]))))
    assert (found.scores > 0).sum() == 2
    assert torch.equal(found.boxes[0, :2], torch.tensor([[0.0, 0.0, 0.5, 1.0]] * 2))


def test_no_candidates_and_no_images_are_no_detections():
    nothing = Suppression(most=4)(Candidates(torch.zeros(2, 0, 6)))
    assert nothing.scores.shape == (2, 4)
    assert (nothing.classes == -1).all()
    assert len(Suppression()(Candidates(torch.zeros(0, 5, 6)))) == 0


def test_less_sure_detections_can_be_left_out():
    found = Detections(torch.rand(1, 3, 4), torch.tensor([[0.9, 0.3, 0.29]]), torch.tensor([[1, 2, 3]]))
    sure = found.at_least(0.3)
    assert sure.scores.tolist() == [[np.float32(0.9), np.float32(0.3), 0.0]]
    assert sure.classes.tolist() == [[1, 2, -1]]


def test_overlaps_are_those_of_the_slow_way():
    first, _ = random_candidates(1, n=2, places=5)
    second, _ = random_candidates(2, n=2, places=4)
    got = overlaps(first, second)
    assert got.shape == (2, 5, 4)
    wanted = [[[overlap(a, b) for b in second[n].tolist()] for a in first[n].tolist()] for n in range(2)]
    assert np.allclose(got, wanted, atol=1e-6)
    inside_out = torch.tensor([0.5, 0.5, 0.2, 0.9])
    assert float(areas(inside_out)) == 0
    assert float(overlaps(inside_out.view(1, 4), inside_out.view(1, 4))) == 0
