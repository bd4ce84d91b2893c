"""Maps must change when the weights become random, and the weights that they are of must not."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from explained_networks import CPU, Rectified, Scriptable, TinyViT, exported, fill, loaded, program, scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn import functional

from auditkit import ExecutionError, Samples, saliency
from auditkit.demo import IMAGES
from auditkit.demo.network import sign_net
from auditkit.findings import flags, metrics
from auditkit.models.loaded import digest_state
from auditkit.models.onnx_files import load_onnx_file
from auditkit.models.preprocess import Preprocessing
from auditkit.models.torch_files import load_torch_file
from auditkit.models.tryout import try_out
from auditkit.testing import assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins.attribution.cascade import randomised, weights_in_order
from auditkit_plugins.attribution.rank_correlation import rank_correlation
from auditkit_plugins.saliency_sanity import SaliencySanity

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ALL = SaliencySanity(share=1.0)


@given(
    arrays(np.float32, (2, 3, 7), elements=st.integers(0, 5).map(float)),
    arrays(np.float32, (2, 3, 7), elements=st.floats(0, 1, width=32)),
)
@settings(deadline=None, max_examples=30)
def test_rank_correlation_is_scipys_also_with_ties(first, second):
    got = rank_correlation(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    for row in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
            wanted = scipy.stats.spearmanr(first[row].ravel(), second[row].ravel()).statistic
        np.testing.assert_allclose(got[row], wanted, rtol=0, atol=1e-12)


def test_rank_correlation_sees_order_and_not_scale():
    maps = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rank_correlation(maps, 7 * maps**3), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(rank_correlation(maps, -maps), -torch.ones(4, dtype=torch.float64))
    assert rank_correlation(maps, torch.ones_like(maps)).isnan().all()


class Upside(nn.Module):
    """Defines its layers in another order than it calls them, and has constants that look like weights."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 5)
        self.late = nn.Conv2d(4, 6, 3)
        self.early = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.unused = nn.Linear(3, 3)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, images):
        values = self.scale * torch.relu(self.norm(self.early(images - self.mean)))
        return self.head(torch.relu(self.late(values)).mean((2, 3)))


def names(model, images):
    return [name.removeprefix("network.") for name, _ in weights_in_order(model.exact, images)]


def test_layers_are_the_weights_in_the_order_of_their_use(tmp_path):
    images = toy_samples(4).images
    upside = fill(Upside())
    assert names(toy_model(upside, images), images) == ["early.weight", "late.weight", "head.weight"]
    twin = exported(upside, images, tmp_path)
    shapes = [tuple(weight.shape) for _, weight in weights_in_order(twin.exact, images)]
    assert shapes == [(4, 3, 3, 3), (6, 4, 3, 3), (5, 6)]
    network = fill(Rectified("modules"))
    order = ["first.weight", "second.weight", "third.weight", "head.weight"]
    for form in (network, scripted(Scriptable(network)), program(network, images)):
        assert names(loaded(form, images), images) == order
    vit = fill(TinyViT((8, 8)))
    order = names(toy_model(vit, images), images)
    assert order[0] == "patches.weight"
    assert order[-1] == "head.weight"
    assert {"place", "attend2.in_proj_weight", "attend2.out_proj.weight", "mlp2.2.weight"} <= set(order)
    assert order.index("attend1.in_proj_weight") < order.index("mlp1.0.weight") < order.index("attend2.in_proj_weight")


def state(model):
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def test_weights_become_random_from_the_last_to_the_first_and_keep_their_size():
    images = toy_samples(4).images
    exact = toy_model(fill(Upside()), images).exact
    original = state(exact)
    layers = ["network.early.weight", "network.late.weight", "network.head.weight"]
    stages = [state(changed) for changed in randomised(exact, images, [0, 1, 2, 3], seed=5)]
    for count, found in enumerate(stages):
        changed = {name for name in original if not torch.equal(original[name], found[name])}
        assert changed == set(layers[3 - count :])
        for name in changed:
            old, new = original[name], found[name]
            assert abs(torch.corrcoef(torch.stack([old.flatten(), new.flatten()]))[0, 1]) < 0.5
            torch.testing.assert_close(new.std(), old.std(), rtol=0.35, atol=0)
            assert torch.equal(new, stages[-1][name])
    assert all(torch.equal(tensor, state(exact)[name]) for name, tensor in original.items())


def test_the_random_weights_depend_on_the_seed_alone():
    images = toy_samples(4).images
    exact = toy_model(fill(Upside()), images).exact
    before = torch.get_rng_state()
    (one,) = (state(changed) for changed in randomised(exact, images, [3], seed=1))
    (again,) = (state(changed) for changed in randomised(exact, images[:2] / 2, [3], seed=1))
    (other,) = (state(changed) for changed in randomised(exact, images, [3], seed=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    assert not torch.equal(one["network.late.weight"], other["network.late.weight"])


def raised(check, model, samples):
    findings = run_check(check, model, samples)
    estimates, _ = metrics(check.spec, findings.columns)
    return [flag.id for flag in flags(check.spec, check.spec.id, estimates)], estimates


class EdgeDetector(nn.Module):
    """Marks the edges of the image, whatever it learned: its weights only say how strongly they speak for a class."""

    def __init__(self, classes=4):
        super().__init__()
        self.kernel = [[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]
        self.mix = nn.Linear(2, classes, bias=False)

    def forward(self, images):
        kernel = torch.tensor([[self.kernel]], dtype=images.dtype, device=images.device)
        edges = functional.conv2d(images.mean(1, keepdim=True), kernel, padding=1)
        strength = edges.square().flatten(1).sum(1)
        return self.mix(torch.stack([strength, 2 * strength], 1))


@pytest.fixture(scope="module")
def signs():
    with np.load(IMAGES) as demo:
        images = torch.from_numpy(demo["x"][:24]).permute(0, 3, 1, 2).contiguous() / 255
        labels = torch.from_numpy(demo["y"][:24]).long()
    return Samples(images, labels, tuple(f"sign-{row}" for row in range(24)))


def test_maps_that_show_the_image_and_not_the_network_are_flagged(signs):
    found, estimates = raised(ALL, toy_model(fill(EdgeDetector()), signs.images), signs)
    assert found == ["sanity.saliency"]
    assert estimates["similarity"].value == pytest.approx(1.0)
    assert estimates["similarity"].n == 24


@pytest.mark.parametrize("method", ["saliency", "gradcam"])
def test_maps_of_a_healthy_network_are_not_flagged(signs, method):
    found, estimates = raised(SaliencySanity(method=method, share=1.0), toy_model(sign_net(), signs.images), signs)
    assert found == []
    assert estimates["similarity"].value < 0.5


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"NO REAL MODELS: {SHARED} is absent")
@pytest.mark.parametrize("name", ["cifar10/resnet20_int8.onnx", "lisa/lisa_cnn.onnx"])
def test_maps_of_real_networks_are_not_flagged(name):
    with np.load(SHARED / ("cifar10/images_600.npz" if "cifar10" in name else "lisa/stop_signs_20.npz")) as data:
        images = torch.from_numpy(data["x"][:8]).permute(0, 3, 1, 2).contiguous() / 255
        labels = torch.from_numpy(data["y"][:8])
    samples = Samples(images, labels, tuple(map(str, range(8))))
    model = try_out(load_onnx_file(SHARED / name, CPU), Preprocessing(), images, CPU, 128)
    found, estimates = raised(SaliencySanity(share=1.0, stages=1), model, samples)
    assert found == []
    assert estimates["similarity"].value < 0.6


@pytest.mark.parametrize("form", ["module", "script", "program", "onnx", "softmax"])
def test_the_model_is_bit_for_bit_what_it_was(form, tmp_path):
    network = fill(Rectified("shared in place", end="softmax" if form == "softmax" else None))
    samples = toy_samples(8, seed=1, network=network)
    model = {
        "module": lambda: loaded(network, samples.images),
        "script": lambda: loaded(scripted(Scriptable(network)), samples.images),
        "program": lambda: loaded(program(network, samples.images), samples.images),
        "onnx": lambda: exported(network, samples.images, tmp_path),
        "softmax": lambda: loaded(network, samples.images, outputs="probabilities"),
    }[form]()
    before = digest_state(network), digest_state(model.exact.network), model.exact.logits(samples.images)
    findings = run_check(ALL, model, samples)
    after = digest_state(network), digest_state(model.exact.network), model.exact.logits(samples.images)
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert findings.columns["examined"].all()
    assert (findings.columns["similarity@1"] < 0.95).all()


def test_the_columns_are_the_correlations_with_the_maps_of_the_random_networks():
    network = fill(Rectified("modules"))
    samples = toy_samples(8, seed=1, network=network)
    model = toy_model(network, samples.images)
    columns = run_check(SaliencySanity(share=1.0, stages=2), model, samples, seed=9).columns
    predicted = network(samples.images).argmax(1)
    trained = saliency(model.exact, samples.images, predicted).flatten(1)
    stages = {"similarity_last": 1, "similarity@0.5": 2, "similarity@1": 4}
    assert set(columns) == {"examined", *stages}
    for name, count in stages.items():
        for changed in randomised(model.exact, samples.images, [count], seed=9):
            maps = saliency(changed, samples.images, predicted).flatten(1)
            wanted = [scipy.stats.spearmanr(*pair).statistic for pair in zip(trained, maps, strict=True)]
            np.testing.assert_allclose(columns[name], wanted, rtol=0, atol=1e-9)


def test_a_part_of_the_images_is_examined_whatever_shard_they_are_in():
    network = fill(Rectified("modules"))
    samples = toy_samples(60, seed=1, network=network)
    model = toy_model(network, samples.images)
    check = SaliencySanity(share=0.3, stages=1)
    findings = run_check(check, model, samples)
    examined = findings.columns["examined"]
    assert 8 < examined.sum() < 30
    assert np.isnan(findings.columns["similarity@1"][~examined]).all()
    assert findings.forwards.tolist() == np.where(examined, 4, 1).tolist()
    assert findings.backwards.tolist() == np.where(examined, 3, 0).tolist()
    shards = [run_check(check, model, samples.take(range(start, start + 20))).columns for start in (0, 20, 40)]
    for name, column in findings.columns.items():
        np.testing.assert_array_equal(np.concatenate([shard[name] for shard in shards]), column)


def test_images_that_nothing_moves_are_not_examined_and_a_flat_map_is_like_none():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(2, 3, bias=False)

        def forward(self, images):
            bright = torch.relu(images.flatten(2).mean(2)[:, :2] - 0.5)
            return self.mix(bright)

    samples = toy_samples(12, seed=0)
    samples.images[:4] *= 0.5
    findings = run_check(ALL, toy_model(fill(Late()), samples.images), samples)
    assert not findings.columns["examined"][:4].any()
    assert np.isfinite(findings.columns["similarity@1"][findings.columns["examined"]]).all()


def test_a_network_whose_weights_are_part_of_its_code_is_refused_in_one_line(tmp_path):
    network = fill(Rectified("modules"))
    samples = toy_samples(6, seed=1, network=network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.freeze(scripted(Scriptable(network)).eval()), tmp_path / "frozen.pt")
    file = load_torch_file(tmp_path / "frozen.pt", CPU, trust_pickle=False)
    model = try_out(file, Preprocessing(), samples.images, CPU, 128)
    with pytest.raises(ExecutionError, match="no weights that could be replaced") as raised:
        run_check(ALL, model, samples)
    assert "\n" not in str(raised.value)


def test_the_gallery_shows_the_maps_that_changed_least(signs):
    findings = run_check(SaliencySanity(share=1.0, stages=1, gallery=3), toy_model(sign_net(), signs.images), signs)
    similarity = findings.columns["similarity@1"]
    assert [exhibit.score for exhibit in findings.exhibits] == sorted(similarity.tolist(), reverse=True)[:3]
    assert [panel.kind for panel in findings.exhibits[0].panels] == ["image", "overlay", "overlay"]
    assert all(panel.array[:, :, 3].max() == 1 for panel in findings.exhibits[0].panels[1:])


@pytest.mark.parametrize("method", ["saliency", "gradcam"])
def test_the_check_keeps_the_contract(method):
    network = fill(Rectified("shared in place"))
    samples = toy_samples(10, seed=1, network=network)
    assert_contract(SaliencySanity(method=method, share=0.6, stages=2, gallery=2), network=network, samples=samples)


@pytest.mark.parametrize("method", ["smoothgrad", "integrated"])
def test_other_maps_are_examined_at_their_cost(method):
    network = fill(Rectified("shared in place"))
    samples = toy_samples(4, seed=1, network=network)
    check = SaliencySanity(method=method, share=1.0, stages=1)
    findings = run_check(check, toy_model(network, samples.images), samples)
    forwards, backwards = {"smoothgrad": (25, 25), "integrated": (34, 32)}[method]
    assert findings.forwards.tolist() == [1 + 3 * forwards] * 4
    assert findings.backwards.tolist() == [3 * backwards] * 4
    assert (findings.columns["similarity@1"] < 0.95).all()


def test_a_share_that_chooses_nobody_gives_no_metrics():
    network = fill(Rectified("modules"))
    samples = toy_samples(3, seed=1, network=network)
    findings = run_check(SaliencySanity(share=0.001), toy_model(network, samples.images), samples)
    assert not findings.columns["examined"].any()
    assert metrics(SaliencySanity.spec, findings.columns)[0] == {}
