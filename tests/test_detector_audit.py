"""A detector's audit from end to end: the same words as for a classifier, from the command to the gate."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_detectors import SquareDetector, toy_scenes

import auditkit
from auditkit.cli.root import cli
from auditkit.errors import UsageError
from auditkit.models.loaded import digest_state
from auditkit.precision import IOU_THRESHOLDS

MODEL = f"{Path(__file__).parent / 'helpers' / 'toy_detectors.py'}:SquareDetector"
CHECKS = ("samples.precision", "patch.dpatch", "patch.vanish")
QUICK = {
    "patch.dpatch": {"steps": 3, "mini_batch": 4, "area": "0.1", "draws": 1},
    "patch.vanish": {"steps": 3, "mini_batch": 4, "area": "0.1, 0.2", "side": 8},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Write scenes as files, with a COCO file, and return (folder of images, file)."""
    folder = tmp_path_factory.mktemp("scenes")
    samples = toy_scenes(20)
    (folder / "images").mkdir()
    listed, annotations = [], []
    for row, name in enumerate(samples.ids):
        pixels = (samples.images[row].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        listed.append({"id": row, "file_name": f"{name}.png", "width": 64, "height": 64})
        for box, colour in zip(samples.objects[row].boxes * 64, samples.objects[row].classes.tolist(), strict=True):
            left, top, right, bottom = box.tolist()
            annotation = {"image_id": row, "category_id": colour, "bbox": [left, top, right - left, bottom - top]}
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for number, name in enumerate(("red", "green", "blue"))]
    file = folder / "boxes.json"
    file.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    return folder / "images", file


def audited(scenes, **more):
    images, boxes = scenes
    return auditkit.audit(MODEL, images, **{"boxes": boxes, "checks": CHECKS, "options": QUICK, "batch": 16, **more})


@pytest.fixture(scope="module")
def result(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("audit")
    return audited(scenes, out=out), out


def run(*args):
    return cli.main([str(arg) for arg in args], standalone_mode=False)


def test_every_check_is_done_and_the_squares_are_found(result):
    found, _ = result
    assert [check.status for check in found.result.checks] == ["done"] * 3
    assert found.result.model.task == "detection"
    assert found.metric("samples.precision/ap50").value == 1
    assert found.metric("samples.precision/found_rate").value == 1
    assert found.result.samples.class_names == ("red", "green", "blue")


def test_a_patch_is_judged_on_images_that_it_was_not_learned_from(result):
    found, _ = result
    held_out = found.table["patch.vanish/held_out"]
    assert 0 < held_out.sum() < 20
    assert found.metric("patch.vanish/clean_ap50").n == held_out.sum()
    objects = found.table["samples.precision/objects"]
    assert found.metric("patch.vanish/vanish_rate@0.2").n == objects[held_out].sum()


def test_all_that_was_matched_is_stored_and_read_again(result):
    found, out = result
    again = auditkit.load_result(out)
    assert sorted(again.matches) == sorted(found.matches)
    assert again.matches["samples.precision/clean/hit"].shape[1] == len(IOU_THRESHOLDS)
    assert again.result == found.result
    assert (out / "report.html").is_file()


def test_every_class_has_its_own_precision(result):
    found, _ = result
    (table,) = found.result.check("samples.precision").tables
    assert sorted(row[0] for row in table.rows) == ["blue", "green", "red"]
    assert sum(row[1] for row in table.rows) == found.table["samples.precision/objects"].sum()


def test_the_figures_show_the_patch_beside_its_controls_over_the_area(result):
    found, _ = result
    curves = found.result.check("patch.vanish").curves
    assert [curve.line for curve in curves] == ["the texture", "noise", "plain grey"] * 2
    vanish, precision = curves[0], curves[3]
    assert [point.label for point in vanish.points] == ["0.1", "0.2"]
    assert [point.label for point in precision.points] == ["0", "0.1", "0.2"]
    assert precision.points[0].estimate == found.metric("patch.vanish/clean_ap50")


@pytest.mark.parametrize(
    ("settings", "what"),
    [({"shard": 7}, "smaller shards"), ({"batch": 3}, "a smaller batch"), ({"workers": 2}, "workers")],
)
def test_nothing_depends_on_how_the_work_is_cut(scenes, result, settings, what):
    found, _ = result
    other = audited(scenes, **settings)
    for name, column in found.table.items():
        assert np.array_equal(column, other.table[name], equal_nan=column.dtype.kind == "f"), f"{name} with {what}"
    for check, again in zip(found.result.checks, other.result.checks, strict=True):
        assert check.metrics == again.metrics, what


def test_the_callers_network_is_bit_identical_afterwards(scenes):
    network = SquareDetector().train()
    before, mode = digest_state(network), network.training
    images, boxes = scenes
    auditkit.audit(network, images, boxes=boxes, checks=CHECKS, options=QUICK)
    assert digest_state(network) == before
    assert network.training is mode


@pytest.mark.parametrize(
    ("gate", "code"),
    [
        ("patch.dpatch/ap50 >= 0.01", 0),
        ("patch.dpatch/ap50 <= 0.01", 1),
        ("samples.precision/ap50 >= 0.999", 4),
        ("patch.vanish/vanish_rate@0.3 <= 0.5", 3),
    ],
    ids=["met", "not met", "undecided", "never measured"],
)
def test_gates_on_a_detector_have_the_exit_codes_of_all_gates(scenes, result, tmp_path, gate, code):
    _, out = result
    assert run("gate", out, "--gate", gate) == code


def test_the_command_line_audits_a_detector(scenes, tmp_path, capsys):
    images, boxes = scenes
    code = run(
        "run", MODEL, "--data", images, "--boxes", boxes, "--checks", "samples.precision", "--out", tmp_path / "a",
        "--score", "0.2", "--overlap", "0.5", "--box-units", "shares", "--gate", "samples.precision/ap75 >= 0.5",
    )  # fmt: skip
    assert code == 0
    assert "PASS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"boxes": None, "score": 0.5}, "score is for detectors"),
        ({"boxes": None, "decode": "x.py:y"}, "decode is for detectors"),
        ({"outputs": "labels"}, "outputs is for classifiers"),
        ({"checks": ("pixel.one",), "options": {}}, "no check 'pixel.one'"),
        ({"decode": "json:__name__"}, "--decode json:__name__ is a str; wanted a function"),
        ({"overlap": "some"}, "overlap"),
        ({"gates": ["patch.vanish/vanish_rate <= 0.5"], "until_decided": True}, "is a ratio"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(scenes, settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        audited(scenes, **settings)
    assert "\n" not in str(caught.value)


def test_classes_that_the_detector_does_not_know_are_told(scenes):
    with pytest.raises(auditkit.AuditError, match=r"has an object of class [345], but .* knows 3 classes"):
        audited(scenes, label_offset=3)


def test_images_in_another_range_are_noticed(scenes):
    found = audited(scenes, input_range="255", checks=("samples.precision",), options={})
    warnings = [note for note in found.result.notes if note.level == "warning"]
    assert "average precision" in warnings[0].text
    assert "leave out --input-range" in warnings[0].remedy


def test_checks_of_detectors_are_listed_and_shown_beside_those_of_classifiers(capsys):
    run("checks", "list", "--json")
    listed = json.loads(capsys.readouterr().out)
    kinds = {(entry["id"], entry["for"]) for entry in listed}
    assert ("patch.dpatch", "detectors") in kinds
    assert ("noise.pgd", "classifiers") in kinds
    run("checks", "show", "patch.dpatch")
    assert "floods the detector" in capsys.readouterr().out
