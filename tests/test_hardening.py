"""`auditkit harden`: the written file is the bounded model, and its numbers are those of the held-out half."""

from __future__ import annotations

import copy
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx_graphs import deployed, model_of, numbers
from rectified_networks import Branching, Gelu, Perceptron, rectified
from scipy import stats

from auditkit.auditing import load_result
from auditkit.bounding import activation_quantiles, bounded_copy, onnx_twin_with_sites
from auditkit.cli import main
from auditkit.config import settings_from
from auditkit.errors import ExecutionError, UsageError
from auditkit.hardening import harden
from auditkit.samples import open_dataset
from auditkit.split import is_held_out
from auditkit.stats import exact_mcnemar
from auditkit.workbench import Recipe

N = 60
STEPS = {"input_range": "-1,1"}


@pytest.fixture(scope="module")
def network():
    return rectified(Perceptron, seed=3)


@pytest.fixture(scope="module")
def data(network):
    """Pictures, labelled by the network itself, but every third one with its second choice."""
    pixels = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        first, second = network(2 * images - 1).topk(2).indices.T.numpy()
    assert len(set(first)) > 1
    return {"x": pixels, "y": np.where(np.arange(N) % 3 == 0, second, first)}


@pytest.fixture(scope="module")
def halves(data, tmp_path_factory):
    """The file of the data, and its samples: those learned from, and those held out."""
    file = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(file, **data)
    samples = open_dataset(str(file)).read(0, N).samples
    held_out = torch.from_numpy(is_held_out(samples.ids, 0, N))
    assert 0 < int(held_out.sum()) < N
    return file, samples.take(~held_out), samples.take(held_out)


def recipe(model, file, **settings):
    return Recipe(model, str(file), settings_from(STEPS | settings))


def inputs(samples):
    return 2 * samples.images - 1


def plainly(file):
    """Return what a program without auditkit computes with the file."""
    if file.suffix == ".onnx":
        return deployed(onnx.load(file))
    if file.suffix == ".pt2":
        return torch.export.load(file).module()
    return torch.jit.load(str(file))


def scores(compute, images):
    with torch.no_grad():
        return compute(images)


@pytest.mark.parametrize(
    ("suffix", "per", "overflow"), [(".pt", "channel", "fold"), (".pt2", "layer", "clip"), (".pt", "layer", "leak")]
)
def test_the_torch_file_is_the_model_with_bounds_from_the_images_that_are_not_held_out(
    network, halves, tmp_path, suffix, per, overflow
):
    file, learned, held_out = halves
    harden(recipe(network, file), tmp_path / f"hard{suffix}", 0.7, per, overflow)
    bounds = activation_quantiles(network, [inputs(learned)], [0.7], per_channel=per == "channel").bounds(0.7)
    wanted = bounded_copy(network, inputs(learned), bounds, overflow).network
    got = scores(plainly(tmp_path / f"hard{suffix}"), inputs(held_out))
    torch.testing.assert_close(got, scores(wanted, inputs(held_out)))
    assert not torch.allclose(got, scores(network, inputs(held_out)))


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    nodes = [
        onnx.helper.make_node("Conv", ["image", "k"], ["c"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["c"], ["r"]),
        onnx.helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        onnx.helper.make_node("Flatten", ["p"], ["scores"]),
    ]
    file = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(model_of(nodes, {"k": 3 * numbers(5, 3, 3, 3)}, ("n", 3, 8, 8), ("n", 5)), file)
    return file


def test_the_onnx_file_runs_in_plain_onnxruntime_and_is_the_bounded_twin(graph, halves, tmp_path):
    file, learned, held_out = halves
    hardened = harden(recipe(graph, file), tmp_path / "hard.onnx", 0.8)
    twin = onnx_twin_with_sites(onnx.load(graph))
    bounds = activation_quantiles(twin, [inputs(learned)], [0.8]).bounds(0.8)
    wanted = scores(bounded_copy(twin, inputs(learned), bounds).network, inputs(held_out))
    session = onnxruntime.InferenceSession(tmp_path / "hard.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"image": inputs(held_out).numpy()})
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert not np.allclose(got, scores(plainly(graph), inputs(held_out)))
    assert (hardened.sites, hardened.bounded) == (1, 1)


def test_the_numbers_are_those_of_a_recount_on_the_held_out_images(network, halves, tmp_path):
    file, learned, held_out = halves
    hardened = harden(recipe(network, file), tmp_path / "hard.pt", 0.5, overflow="clip")
    labels = held_out.labels
    before = scores(network, inputs(held_out)).argmax(1)
    after = scores(plainly(tmp_path / "hard.pt"), inputs(held_out)).argmax(1)
    was_right, is_right = before == labels, after == labels
    assert hardened.lost == int((was_right & ~is_right).sum()) > 0
    assert hardened.gained == int((~was_right & is_right).sum()) > 0
    assert hardened.changed == int((before != after).sum())
    assert hardened.before.value == pytest.approx(float(was_right.float().mean()))
    assert hardened.after.value == pytest.approx(float(is_right.float().mean()))
    assert hardened.before.n == hardened.after.n == len(held_out)
    assert hardened.calibrated_on == len(learned)
    assert (hardened.sites, hardened.bounded) == (2, 2)
    exact = stats.binomtest(hardened.lost, hardened.lost + hardened.gained).pvalue
    assert hardened.p_value == pytest.approx(exact)


def test_bounds_at_the_largest_activation_change_no_decision_on_the_images_that_they_come_from(
    network, halves, tmp_path
):
    file, learned, _ = halves
    harden(recipe(network, file), tmp_path / "wide.pt", 1.0)
    harden(recipe(network, file), tmp_path / "narrow.pt", 0.3)
    wanted = scores(network, inputs(learned)).argmax(1)
    wide, narrow = (scores(plainly(tmp_path / f"{name}.pt"), inputs(learned)) for name in ("wide", "narrow"))
    assert torch.equal(wide.argmax(1), wanted)
    assert not torch.equal(narrow.argmax(1), wanted)


def test_the_callers_model_and_random_state_stay_as_they_were(network, halves, tmp_path):
    own = copy.deepcopy(network).train()
    before, state = copy.deepcopy(own.state_dict()), torch.random.get_rng_state()
    harden(recipe(own, halves[0]), tmp_path / "hard.pt", 0.9)
    assert all(module.training for module in own.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 3), (2, 9), (40, 11)])
def test_the_p_value_is_that_of_the_binomial_test(counts):
    wanted = stats.binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1.0
    assert exact_mcnemar(*counts) == pytest.approx(wanted)


def test_a_model_that_cannot_be_written_leaves_no_file_and_the_error_names_the_one_that_was_asked_for(halves, tmp_path):
    with pytest.raises(ExecutionError) as refused:
        harden(recipe(rectified(Branching), halves[0]), tmp_path / "hard.pt")
    assert str(refused.value).startswith(f"{tmp_path / 'hard.pt'}: ")
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_rectifiers_is_a_usage_error(halves, tmp_path):
    with pytest.raises(UsageError, match="nothing to bound"):
        harden(recipe(rectified(Gelu), halves[0]), tmp_path / "hard.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run the program in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["auditkit", "harden", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return (int(str(stop.value.code)), *capsys.readouterr())

    return run


def test_the_command_tells_the_numbers_and_that_robustness_is_still_to_be_measured(call, graph, halves, tmp_path):
    code, out, err = call(graph, "--data", halves[0], "--out", "hard.onnx", "--input-range=-1,1", "--quantile", "0.6")
    assert (code, err) == (0, "")
    again = harden(recipe(graph, halves[0]), tmp_path / "again.onnx", 0.6)
    assert out.splitlines()[1:5] == again.summary().splitlines()[1:]
    assert f"clean accuracy after: {again.after.value:.3g} ({again.after.low:.3g} to" in out
    assert "What the bounds buy is not known yet" in out
    assert f"auditkit run hard.onnx --data {halves[0]}" in out
    assert (tmp_path / "hard.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


def test_with_a_report_it_also_tells_what_the_bounds_buy(call, network, halves, tmp_path):
    torch.jit.script(network).save("model.pt")
    words = ("--data", halves[0], "--out", "hard.pt", "--quantile", "0.6", "--overflow", "clip")
    words = (*words, "--input-range=-1,1", "--report", "bought")
    code, out, _ = call("model.pt", *words)
    assert code == 0
    assert "What the bounds buy is not known yet" not in out
    after = next(line for line in out.splitlines() if line.startswith("clean accuracy after"))
    result = load_result("bought").result
    (check,) = result.checks
    assert (check.id, check.status) == ("prevent.bounded", "done")
    assert (check.options["quantile"], check.options["overflow"], check.options["per"]) == (0.6, "clip", "channel")
    assert check.metrics["bounded_clean_accuracy"].value == pytest.approx(float(after.split()[3]), abs=1e-3)
    assert (tmp_path / "bought" / "report.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "hard.pt"), "an ONNX model is written to a .onnx file; got hard.pt"),
        (("--out", "there.onnx"), "there.onnx is there already"),
        (("--out", "beside.onnx"), "beside.onnx.data is there already"),
        (("--out", "hard.onnx", "--quantile", "0"), "0.0 is not in the range"),
        (("--out", "hard.onnx", "--limit", "1"), "bounds are chosen on about half of the images"),
        (("--out", "hard.onnx", "--overflow", "bend"), "'bend' is not one of"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(call, graph, halves, tmp_path, words, message):
    for name in ("there.onnx", "beside.onnx.data"):
        (tmp_path / name).write_text("mine")
    code, out, err = call(graph, "--data", halves[0], *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside.onnx.data", "there.onnx"]
    assert (tmp_path / "there.onnx").read_text() == "mine"


def test_a_torch_model_is_not_written_as_onnx(network, halves, tmp_path):
    with pytest.raises(UsageError, match=r"written to \.pt or \.pt2; got .*hard\.onnx"):
        harden(recipe(network, halves[0]), tmp_path / "hard.onnx")
