"""Images unlike the data: scores are what they are called, groups are compared rightly, nothing depends on the way."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_graphs import model_of, numbers
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional

from auditkit.assemble import assemble
from auditkit.config import settings_from
from auditkit.engine import Hands, execute
from auditkit.executors.choose import worker_processes
from auditkit.journal import UNFINISHED, Journal
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.progress import Silent
from auditkit.samples import Samples
from auditkit.store import Store
from auditkit.testing import LinearModel, assert_contract, run_check, run_learn, toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.last_layer import last_weights, with_bounded_features
from auditkit_plugins.outside import Outside

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SCORES = ("softmax", "max_logit", "energy", "norm", "react")


def filled(network, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / scale)
    return network.eval()


class Plain(nn.Module):
    """Features and a last layer by hand, in one of several ways to write it."""

    def __init__(self, way="module"):
        super().__init__()
        self.way = way
        self.body = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 4, bias=way != "no bias")

    def features(self, images):
        return functional.relu(self.body(images)).mean((2, 3))

    def forward(self, images):
        features = self.features(images)
        if self.way == "function":
            return functional.linear(features, self.head.weight, self.head.bias)
        if self.way == "product":
            return features @ self.head.weight.T + self.head.bias
        return self.head(features) / (0.5 if self.way == "temperature" else 1.0)


class NoLinearEnd(nn.Module):
    """Ends in a convolution and a pooling, with a linear layer of as many outputs before, as a gate."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(3, 4)
        self.body = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        gate = self.gate(images.mean((2, 3)))
        return (self.body(images) * gate[:, :, None, None]).mean((2, 3))


class Twice(nn.Module):
    """Sends every image through its last layer twice."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(192, 4)
        self.head = nn.Linear(4, 4)

    def forward(self, images):
        return self.head(self.head(self.body(images.flatten(1))))


class Softmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = filled(Plain())

    def forward(self, images):
        return self.inner(images).softmax(1)


NETWORK = filled(Plain())
OWN = toy_samples(40, seed=1, network=NETWORK)
UNLIKE = Samples(OWN.images[:30].flip(3) ** 3, torch.zeros(30, dtype=torch.int64), tuple(f"u{n}" for n in range(30)))


def found(network=NETWORK, check=None, own=OWN, unlike=UNLIKE, model=None):
    """Return the findings on own images, beside those unlike them."""
    check = check if check is not None else Outside()
    model = model if model is not None else toy_model(network, own.images)
    lesson = run_learn(check, model, unlike, calibration=own)
    return run_check(check, model, own, lesson=lesson, calibration=own)


class TestScores:
    @pytest.mark.parametrize("way", ["module", "function", "product", "no bias", "temperature"])
    def test_they_are_what_their_names_say_on_both_kinds_of_images(self, way):
        network = filled(Plain(way))
        result = found(network, Outside(bound=0.8, sure=0.6))
        with torch.no_grad():
            bound = np.quantile(network.features(OWN.images).numpy(), 0.8)
            for prefix, table, samples in (("", result.columns, OWN), ("ood_", result.others, UNLIKE)):
                logits, features = network(samples.images).double(), network.features(samples.images)
                bounded = network.head(features.clamp(max=float(bound))) / (0.5 if way == "temperature" else 1)
                confidence = logits.softmax(1).amax(1)
                wanted = {
                    "confidence": confidence,
                    "softmax": torch.log((1 - confidence) / confidence),
                    "max_logit": -logits.amax(1),
                    "energy": -logits.logsumexp(1),
                    "length": features.norm(dim=1),
                    "norm": -features.norm(dim=1),
                    "react": -bounded.double().logsumexp(1),
                }
                for name, values in wanted.items():
                    np.testing.assert_allclose(table[prefix + name], values.numpy(), rtol=1e-5, atol=1e-5, err_msg=name)
                np.testing.assert_array_equal(table[prefix + "sure"], (confidence > 0.6).numpy())
                assert table[prefix + "layered"].all()
        assert not np.allclose(result.columns["react"], result.columns["energy"]), "the bound bounds nothing"

    def test_a_bound_at_the_largest_feature_changes_nothing(self):
        """Of the calibration images; these are all own images here."""
        columns = found(check=Outside(bound=1.0)).columns
        np.testing.assert_array_equal(columns["react"], columns["energy"])

    def test_confidences_that_round_to_one_are_no_ties(self):
        network = LinearModel(classes=4, seed=2)
        with torch.no_grad():
            network.weight *= 30
            network.bias *= 30
        columns = found(network, own=toy_samples(40, seed=1)).columns
        assert (columns["confidence"] == 1).sum() > 10
        assert len(set(columns["softmax"])) == 40

    def test_a_script_is_looked_into_like_a_module(self):
        result = found(torch.jit.script(NETWORK))
        wanted = found()
        for name, column in wanted.columns.items():
            np.testing.assert_allclose(result.columns[name], column, rtol=1e-5, err_msg=name)

    def test_an_onnx_graph_is_looked_into_through_its_twin(self, tmp_path):
        """Of a product and a sum, as many exporters write a linear layer."""
        constants = {"weights": numbers(192, 9), "out": numbers(9, 4, seed=1), "bias": numbers(4, seed=2)}
        nodes = [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["features"]),
            helper.make_node("MatMul", ["features", "out"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["scores"]),
        ]
        onnx.save(model_of(nodes, constants, ("N", 3, 8, 8), ("N", 4)), tmp_path / "model.onnx")
        data = OWN.images.numpy(), OWN.labels.numpy()
        bench = set_up(Recipe(tmp_path / "model.onnx", data, settings_from({"precision": "float32"})))
        columns = found(model=bench.model).columns
        features = np.maximum(OWN.images.flatten(1).numpy() @ constants["weights"], 0)
        bounded = np.minimum(features, np.quantile(features, 0.9)) @ constants["out"] + constants["bias"]
        np.testing.assert_allclose(columns["length"], np.linalg.norm(features, axis=1), rtol=1e-5)
        np.testing.assert_allclose(columns["react"], -np.log(np.exp(bounded.astype(float)).sum(1)), rtol=1e-4)

    def test_a_softmax_at_the_end_is_looked_behind(self):
        """Of probabilities the energy is zero, whatever the image."""
        own = toy_samples(40, seed=1)
        bench = set_up(
            Recipe(
                Softmax(),
                (own.images.numpy(), own.labels.numpy()),
                settings_from({"outputs": "probabilities", "precision": "float32"}),
            )
        )
        result, wanted = found(model=bench.model), found(filled(Plain()))
        for name in ("max_logit", "energy", "norm", "react", "softmax"):
            np.testing.assert_allclose(result.columns[name], wanted.columns[name], rtol=1e-4, atol=1e-5, err_msg=name)
        assert set(result.forwards) == {3}

    def test_of_probabilities_without_a_known_softmax_no_energy_is_told(self):
        own = toy_samples(40, seed=1)
        settings = settings_from({"outputs": "probabilities", "precision": "float32"})
        model = set_up(Recipe(Softmax(), (own.images.numpy(), own.labels.numpy()), settings)).model
        columns = found(model=replace(model, exact=None, no_gradients="none here")).columns
        assert all(np.isnan(columns[name]).all() for name in ("max_logit", "energy", "norm", "react"))
        assert np.isfinite(columns["softmax"]).all()


class TestLastLayer:
    @pytest.mark.parametrize("network", [NoLinearEnd(), Twice()], ids=["no linear end", "twice"])
    def test_where_there_is_no_such_layer_its_scores_are_left_out(self, network):
        result = found(filled(network))
        for table, prefix in ((result.columns, ""), (result.others, "ood_")):
            assert not table[prefix + "layered"].any()
            assert np.isnan(table[prefix + "norm"]).all()
            assert np.isnan(table[prefix + "react"]).all()
            assert np.isfinite(table[prefix + "energy"]).all()
        assert set(result.forwards) == {1}

    def test_no_bound_changes_no_bit_and_batches_change_none_either(self):
        exact = toy_model(NETWORK, OWN.images).exact
        weights = last_weights(exact, OWN.images, 4)
        wanted = with_bounded_features(exact, OWN.images, weights, float("inf"))
        assert torch.equal(wanted[1], exact.logits(OWN.images))
        for batch in (1, 7, 16):
            got = with_bounded_features(replace(exact, batch=batch), OWN.images, weights, float("inf"))
            assert torch.equal(got[0], wanted[0])
            assert torch.equal(got[1], wanted[1])

    def test_a_network_that_insists_on_its_batch_size_is_no_obstacle(self):
        exact = toy_model(NETWORK, OWN.images).exact
        fixed = replace(exact, batching=replace(exact.batching, fixed=32))
        wanted = with_bounded_features(exact, OWN.images, last_weights(exact, OWN.images, 4), 0.2)
        got = with_bounded_features(fixed, OWN.images, last_weights(fixed, OWN.images, 4), 0.2)
        for one, other in zip(wanted, got, strict=True):
            assert one.shape == other.shape
            torch.testing.assert_close(one, other)

    def test_weights_of_another_number_of_classes_are_not_taken(self):
        exact = toy_model(NETWORK, OWN.images).exact
        assert last_weights(exact, OWN.images, 4) is not None
        assert last_weights(exact, OWN.images, 5) is None


@pytest.mark.parametrize(
    "network", [None, NETWORK, filled(NoLinearEnd()), Softmax()], ids=["linear", "plain", "no linear end", "softmax"]
)
def test_the_check_keeps_the_contract(network):
    if network is None:
        assert_contract(Outside, options={"gallery": 3, "sure": 0.5})
    else:
        assert_contract(Outside(gallery=0), network=network, samples=toy_samples(16, network=network))


def bench_for(folder, **settings):
    """Return a workbench on files, as worker processes need them."""
    torch.jit.script(NETWORK).save(folder / "model.pt")
    np.savez(folder / "own.npz", x=OWN.images.numpy(), y=OWN.labels.numpy())
    np.savez(folder / "unlike.npz", x=UNLIKE.images.numpy(), y_predicted=np.zeros(30, int), ids=np.array(UNLIKE.ids))
    chosen = {"ood": str(folder / "unlike.npz"), "precision": "float32", "shard": 16, **settings}
    return set_up(Recipe(str(folder / "model.pt"), str(folder / "own.npz"), settings_from(chosen)))


def executed(bench, folder, workers=0, **options):
    store, plan = Store(folder), [configure(Outside, options, "profile.ood", "tests 1")]
    folder.mkdir(exist_ok=True)
    hired = worker_processes(bench, store, Silent(), workers) if workers else contextlib.nullcontext()
    with hired as executor:
        execution = execute(bench, plan, store, Silent(), Journal(folder, {}), Hands(executor))
    (folder / UNFINISHED).unlink()
    result, table, arrays, _ = assemble(bench, plan, [], execution, store, [], {}, None)
    return result.model_copy(update={"checks": (result.checks[0].model_copy(update={"seconds": 0}),)}), table, arrays


def test_a_whole_audit_is_the_same_whatever_the_batch_the_shards_the_workers_and_a_resume(tmp_path):
    wanted, table, arrays = executed(bench_for(tmp_path), tmp_path / "a")
    check = wanted.checks[0]
    assert check.status == "done", check.reason
    assert wanted.samples.outside.startswith(f"{tmp_path / 'unlike.npz'}: 30 images, of which 30 can be read")
    for score in SCORES:
        groups = table[f"profile.ood/{score}"], found().others[f"ood_{score}"]
        truth = np.repeat([0, 1], [40, 30])
        estimate = check.metrics[f"auroc_{score}"]
        assert estimate.value == pytest.approx(roc_auc_score(truth, np.concatenate(groups)), abs=1e-12)
        assert estimate.n == 70
    stored = {path.name for path in (tmp_path / "a").iterdir()}
    again = executed(bench_for(tmp_path), tmp_path / "a")
    assert {path.name for path in (tmp_path / "a").iterdir()} == stored
    ways = {
        "shards of 1": executed(bench_for(tmp_path, shard=1), tmp_path / "b"),
        "one shard": executed(bench_for(tmp_path, shard=64, batch=3), tmp_path / "c"),
        "workers": executed(bench_for(tmp_path), tmp_path / "d", workers=2),
        "again": again,
    }
    for way, (result, columns, pictures) in ways.items():
        assert (result.checks, result.flags, result.samples) == (wanted.checks, wanted.flags, wanted.samples), way
        for name, column in table.items():
            np.testing.assert_array_equal(columns[name], column, err_msg=f"{way}: {name}")
        assert pictures.keys() == arrays.keys(), way
        for name, picture in arrays.items():
            np.testing.assert_array_equal(pictures[name], picture, err_msg=f"{way}: {name}")


def test_the_gallery_shows_each_of_the_unlike_images_of_which_the_model_is_surest_once(tmp_path):
    result, _, arrays = executed(bench_for(tmp_path), tmp_path / "a", gallery=5)
    confidence = NETWORK(UNLIKE.images).detach().double().softmax(1).amax(1)
    surest = confidence.argsort(descending=True)[:5].tolist()
    exhibits = result.checks[0].exhibits
    assert [exhibit.sample for exhibit in exhibits] == [f"ood: {UNLIKE.ids[row]}" for row in surest]
    said = NETWORK(UNLIKE.images[surest]).argmax(1).tolist()
    for exhibit, row, label in zip(exhibits, surest, said, strict=True):
        assert f"class {label}" in exhibit.caption
        assert f"{float(confidence[row]):.1%}" in exhibit.caption
        shown = torch.from_numpy(arrays[exhibit.panels[0].array]).permute(2, 0, 1) / 255
        torch.testing.assert_close(shown, UNLIKE.images[row], atol=0.51 / 255, rtol=0)
    assert executed(bench_for(tmp_path), tmp_path / "b", gallery=0)[0].checks[0].exhibits == ()


def test_what_is_left_out_has_no_metric_and_the_rest_stands(tmp_path):
    network = filled(NoLinearEnd())
    data = OWN.images.numpy(), OWN.labels.numpy()
    settings = settings_from({"ood": UNLIKE.images.numpy(), "precision": "float32"})
    bench = set_up(Recipe(network, data, settings))
    check = executed(bench, tmp_path)[0].checks[0]
    assert check.status == "done"
    assert {"auroc_softmax", "tpr5_energy", "confidence"} <= check.metrics.keys()
    assert not {"auroc_norm", "auroc_react", "length", "ood_length"} & check.metrics.keys()
    assert [len(curve.points) > 0 for curve in check.curves] == [True, True, True, False, False, True, True]


@pytest.mark.skipif(not (SHARED / "svhn").is_dir(), reason=f"NO REAL IMAGES: {SHARED / 'svhn'} is absent")
def test_house_numbers_and_a_network_that_knows_animals_and_vehicles(tmp_path):
    """0.907 was measured beforehand, with other tools, for the largest softmax value."""
    settings = settings_from({"ood": str(SHARED / "svhn" / "images_100.npz"), "precision": "float32", "device": "cpu"})
    data = str(SHARED / "cifar10" / "images_600.npz")
    bench = set_up(Recipe(str(SHARED / "cifar10" / "resnet20.onnx"), data, settings))
    result, table, _ = executed(bench, tmp_path)
    metrics = result.checks[0].metrics
    assert metrics["auroc_softmax"].value == pytest.approx(0.907, abs=5e-4)
    assert metrics["auroc_softmax"].low < 0.89 < 0.92 < metrics["auroc_softmax"].high
    assert metrics["auroc_softmax"].n == 700
    assert all(0.85 < metrics[f"auroc_{score}"].value < 0.95 for score in SCORES)
    assert metrics["confidence"].value > metrics["ood_confidence"].value
    assert len(table["profile.ood/energy"]) == 600
