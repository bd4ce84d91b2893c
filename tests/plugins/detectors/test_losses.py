"""What textures are learned for: worked out by hand on a few candidates."""

import math

import torch

from auditkit_plugins.detectors.losses import still_found, taken_for_many, taken_for_one

BOX = [0.0, 0.0, 0.5, 0.5]
FAR = [0.6, 0.6, 1.0, 1.0]


def packed(*candidates):
    """Candidates (box, scores) of one image."""
    return torch.tensor([[[*box, *scores] for box, scores in candidates]])


def object_loss(candidates, score=0.3, category=0):
    boxes, classes = torch.tensor([[BOX]]), torch.tensor([[category]])
    return still_found(score)(candidates, boxes, classes, torch.ones(1, 1, dtype=torch.bool))


def test_a_sure_candidate_in_its_place_costs_its_distance_to_half_of_what_counts():
    # The other class is so far behind that becoming silent is the shorter way.
    loss = object_loss(packed((BOX, [0.6, 1e-6])))
    assert math.isclose(float(loss), math.log(0.6 / 0.15), rel_tol=1e-5)


def test_being_taken_for_another_class_is_as_good_as_being_silent():
    loss = object_loss(packed((BOX, [0.6, 0.55])))
    assert math.isclose(float(loss), 2.5 * (math.log(0.6 / 0.55) + 0.2), rel_tol=1e-4)
    assert float(object_loss(packed((BOX, [0.4, 0.9])))) == 0


def test_candidates_elsewhere_below_the_threshold_and_unused_objects_cost_nothing():
    assert float(object_loss(packed((FAR, [0.9, 0.0])))) == 0
    assert float(object_loss(packed((BOX, [0.1, 0.0])))) == 0
    unused = torch.zeros(1, 1, dtype=torch.bool)
    assert float(still_found(0.3)(packed((BOX, [0.9, 0.0])), torch.tensor([[BOX]]), torch.tensor([[0]]), unused)) == 0


def test_every_candidate_that_speaks_for_an_object_counts_and_so_does_every_object():
    one = object_loss(packed((BOX, [0.6, 1e-6])))
    assert torch.allclose(object_loss(packed((BOX, [0.6, 1e-6]), (BOX, [0.6, 1e-6]))), 2 * one)
    boxes, classes = torch.tensor([[BOX, FAR]]), torch.tensor([[0, 0]])
    both = still_found(0.3)(packed((BOX, [0.6, 1e-6])), boxes, classes, torch.ones(1, 2, dtype=torch.bool))
    assert torch.allclose(both, one)
    worn_twice = still_found(0.3)(
        packed((BOX, [0.6, 1e-6])), torch.tensor([[BOX, BOX]]), classes, torch.ones(1, 2, dtype=torch.bool)
    )
    assert torch.allclose(worn_twice, 2 * one)


def test_with_one_class_alone_only_silence_helps():
    assert math.isclose(float(object_loss(packed((BOX, [0.6])))), math.log(4), rel_tol=1e-5)


def test_the_gradient_lowers_the_score_of_the_objects_class_alone():
    candidates = packed((BOX, [0.6, 0.001]), (FAR, [0.6, 0.001])).requires_grad_()
    object_loss(candidates).sum().backward()
    assert float(candidates.grad[0, 0, 4]) > 0
    assert float(candidates.grad[0, 1].abs().sum()) == 0


def test_many_classes_on_the_patch_are_what_is_wanted_and_none_elsewhere_counts():
    near, weights = torch.tensor([[BOX]]), torch.tensor([[1.0, 3.0]])
    loss = taken_for_many(packed((BOX, [0.8, 0.2]), (FAR, [0.9, 0.9])), near, weights)
    assert torch.allclose(loss, torch.tensor([-(0.8 + 3 * 0.2) / 4]), atol=1e-4)
    nothing = taken_for_many(packed((FAR, [0.9, 0.9])), near, weights)
    assert float(nothing) == 0


def test_the_surest_candidate_of_a_class_stands_for_it():
    near, weights = torch.tensor([[BOX]]), torch.ones(1, 1)
    loss = taken_for_many(packed((BOX, [0.8]), (BOX, [0.4]), (BOX, [0.1])), near, weights)
    assert -0.8 <= float(loss) < -0.79


def test_with_a_target_the_patch_shall_be_it_and_nothing_else_be_seen():
    near, weights = torch.tensor([[BOX]]), torch.ones(1, 2)
    loss = taken_for_one(1)(packed((BOX, [0.1, 0.5]), (FAR, [0.6, 0.0])), near, weights)
    assert torch.allclose(loss, torch.tensor([math.log(2) + 0.36]), atol=1e-4)
    better = taken_for_one(1)(packed((BOX, [0.1, 0.9]), (FAR, [0.1, 0.0])), near, weights)
    assert float(better) < float(loss)
