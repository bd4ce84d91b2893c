"""samples.precision counts what is found before anybody attacks."""

import numpy as np
import torch
from toy_detectors import SquareDetector, toy_scenes

from auditkit.findings import metrics
from auditkit.samples import Objects, Samples
from auditkit.testing import assert_contract, run_check, toy_detector
from auditkit_plugins.detectors.precision import Precision


def with_more(samples, row, box, category=0, crowd=False):
    """Annotate one object more in an image."""
    objects = list(samples.objects)
    old = objects[row]
    objects[row] = Objects(
        torch.cat([old.boxes, torch.tensor([box])]),
        torch.cat([old.classes, torch.tensor([category])]),
        torch.cat([old.crowd, torch.tensor([crowd])]),
        old.size,
    )
    return Samples(samples.images, samples.labels, samples.ids, objects=tuple(objects))


def found_in(samples):
    findings = run_check(Precision(), toy_detector(SquareDetector(), samples), samples)
    return findings, metrics(Precision.spec, findings.columns, matches=findings.matches)[0]


def test_the_contract_is_kept():
    assert_contract(Precision, network=SquareDetector(), samples=toy_scenes(9))


def test_what_is_missed_costs_and_is_shown_beside_what_is_annotated():
    samples = with_more(toy_scenes(10), 4, [0.9, 0.9, 1.0, 1.0], category=1)
    findings, estimates = found_in(samples)
    missed = findings.columns["objects"] - findings.columns["found"]
    assert missed.tolist() == [0] * 4 + [1] + [0] * 5
    assert estimates["ap50"].value < 1
    (exhibit,) = findings.exhibits
    annotated, seen = exhibit.panels
    assert exhibit.sample == samples.ids[4]
    assert [mark.tone for mark in annotated.marks] == ["object"] * int(findings.columns["objects"][4])
    assert sum(mark.tone == "lost" for mark in seen.marks) == 1


def test_a_crowd_is_neither_missed_nor_counted():
    plain, crowded = toy_scenes(10), with_more(toy_scenes(10), 4, [0.5, 0.5, 1.0, 1.0], crowd=True)
    (first, estimates), (second, with_crowd) = found_in(plain), found_in(crowded)
    assert np.array_equal(first.columns["objects"], second.columns["objects"])
    assert estimates["ap50"].value == with_crowd["ap50"].value == 1
    assert second.exhibits == ()
