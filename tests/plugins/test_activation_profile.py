"""Activation profiles: known activations, attacks beside controls; shards, batches and resuming change nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import scipy.stats
import torch
from broken_networks import base_network
from rectified_networks import Gelu, Shared, rectified
from torch import nn

from auditkit import Finished, Metric, Spec, tap_activations
from auditkit.config import settings_from
from auditkit.engine import missing_capability
from auditkit.findings import metrics
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.samples import Samples
from auditkit.stored import as_16bit
from auditkit.summaries import merge_tallies
from auditkit.testing import LinearModel, assert_contract, run_check, run_learn, toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.activation_profile import ActivationProfile
from auditkit_plugins.attacked_images import FAMILIES
from auditkit_plugins.pgd import PGD
from auditkit_plugins.sticker import Sticker

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"


class Corner(nn.Module):
    """Four units that see the image, and one that sees only its upper left corner, ten times as loud."""

    def __init__(self, size=6):
        super().__init__()
        self.see = nn.Conv2d(1, 4, 1, bias=False)
        self.corner = nn.Linear(size * size, 1)
        with torch.no_grad():
            self.see.weight.copy_(torch.tensor([1.0, 0.5, 0.25, -1.0]).view(4, 1, 1, 1))
            self.corner.weight.zero_()
            self.corner.weight[0, 0] = 100
            self.corner.bias.fill_(-40)

    def forward(self, images):
        seen = self.see(images).relu()
        corner = self.corner(images.flatten(1)).relu()
        return torch.cat([seen.mean((2, 3)), corner], 1)


@dataclass(frozen=True)
class Noise:
    spec: ClassVar[Spec] = Spec("noise.fake", "t", "w", (Metric("found", "found", "t"),))


@dataclass(frozen=True)
class Patch:
    spec: ClassVar[Spec] = Spec("patch.fake", "t", "w", (Metric("found", "found", "t"),))


def grey(n=6, size=6, seed=0):
    """Images of 0.3 to 0.5, the corner 0.42 to 0.45."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.2 * torch.rand(n, 1, size, size, generator=generator)
    images[:, :, 0, 0] = 0.42 + 0.03 * torch.rand(n, 1, generator=generator)
    return Samples(images, torch.zeros(n, dtype=torch.int64), tuple(f"s{at}" for at in range(n)))


def finished(check, attacked, found=None):
    found = np.ones(len(attacked), dtype=bool) if found is None else np.array(found)
    return Finished(check, {"found": found}, as_16bit(attacked[torch.from_numpy(found)]))


def found(samples, network=None, check=None, read=None, calibration=None, **context):
    model = toy_model(network if network is not None else Corner(), samples.images)
    check = check if check is not None else ActivationProfile()
    lesson = run_learn(check, model, calibration if calibration is not None else samples)
    return run_check(check, model, samples, lesson=lesson, finished=read or {}, **context)


def concluded(*parts, check=None):
    merged = merge_tallies([part.tallies for part in parts])
    return (check or ActivationProfile()).conclude(merged)


def value(findings, name):
    return metrics(ActivationProfile.spec, findings.columns)[0][name].value


@pytest.mark.parametrize("kind", [Shared, Gelu])
def test_the_check_keeps_the_contract_alone(kind):
    network = rectified(kind)
    assert_contract(ActivationProfile, network=network, samples=toy_samples(14, network=network, wrong_every=4))


def test_the_check_keeps_the_contract_beside_attacks():
    network = base_network()
    assert_contract(
        ActivationProfile,
        options={"exact_kurtosis": True},
        network=network,
        samples=toy_samples(14, network=network, wrong_every=4),
        beside=(PGD(eps=(0.1,), steps=3), Sticker(queries=10)),
    )


def test_an_attack_on_one_unit_is_louder_than_its_control():
    samples = grey()
    attacked = samples.images.clone()
    attacked[:, :, 0, 0] = 1
    findings = found(samples, read={"patch.fake": finished(Patch(), attacked)})
    columns = findings.columns
    typical = np.median(100 * samples.images[:, 0, 0, 0].numpy() - 40)
    np.testing.assert_allclose(columns["patch_loudness"], 60 / typical, rtol=1e-3)
    before = columns["loudness"]
    np.testing.assert_allclose(columns["patch_ratio"], 60 / typical / before, rtol=1e-3)
    # The white pixel elsewhere is but 1 over 0.5, and seen by the other units.
    assert (columns["patch_control_loudness"] < 4).all()
    assert columns["patch_louder"].all()
    assert columns["patch_attacked"].all()
    assert value(findings, "patch_loudness_auroc") == 1
    assert value(findings, "patch_louder") == 1
    assert value(findings, "patch_control_ratio") < value(findings, "patch_ratio")


def test_an_attack_that_is_everywhere_the_same_is_no_louder_than_its_control():
    samples = grey()
    attacked = samples.images + 0.05
    columns = found(samples, read={"noise.fake": finished(Noise(), attacked)}).columns
    np.testing.assert_allclose(columns["noise_loudness"], columns["noise_control_loudness"], rtol=1e-3)
    assert (columns["noise_ratio"] > 1).all()


def test_several_attacks_on_a_sample_are_averaged_and_a_sample_without_one_has_none():
    samples = grey(4)
    loud, faint = samples.images.clone(), samples.images.clone()
    loud[:, :, 0, 0], faint[:, :, 0, 0] = 1.0, 0.6
    some = [True, True, False, False]
    read = {"patch.a": finished(Patch(), loud, some), "patch.b": finished(Patch(), faint, [True, False, False, False])}
    both = found(samples, read=read).columns
    alone = [found(samples, read={key: one}).columns["patch_ratio"] for key, one in read.items()]
    assert both["patch_attacked"].tolist() == some
    assert both["patch_ratio"][0] == pytest.approx((alone[0][0] + alone[1][0]) / 2, rel=1e-12)
    assert both["patch_ratio"][1] == alone[0][1]
    assert np.isnan(both["patch_ratio"]).tolist() == [False, False, True, True]
    assert both["patch_louder"].tolist() == some


def test_without_attacks_it_tells_about_clean_images_only():
    findings = found(grey())
    names, _ = metrics(ActivationProfile.spec, findings.columns)
    assert set(names) == {"loudness", "top_unit", "top_share", "effective_share", "outlier_rate"}
    assert not any(findings.columns[f"{family}_attacked"].any() for family in FAMILIES)
    assert [figure.title for figure in concluded(findings).profiles] == ["How loud the layers are"]
    assert (findings.forwards == 1).all()


def test_passes_are_counted_for_attacked_images_and_controls():
    samples = grey(4)
    read = {
        "patch.a": finished(Patch(), samples.images + 0.1, [True, True, False, False]),
        "noise.b": finished(Noise(), samples.images + 0.1, [True, False, False, False]),
    }
    assert found(samples, read=read).forwards.tolist() == [5, 3, 1, 1]


def test_loudness_is_the_largest_over_what_is_typical_at_its_layer():
    samples, calibration = grey(8, seed=1), grey(20, seed=2)
    columns = found(samples, calibration=calibration).columns
    layers = []
    for images in (calibration.images, samples.images):
        corner = 100 * images[:, 0, 0, 0] - 40
        layers.append(torch.stack([images.flatten(1).amax(1), corner], 1).double().numpy())
    wanted = layers[1] / np.median(layers[0], axis=0)
    np.testing.assert_allclose(columns["loudness"], wanted.max(1), rtol=1e-4)
    assert columns["loudest_site"].tolist() == wanted.argmax(1).tolist()
    middle = np.median(wanted.max(1))
    assert value(found(samples, calibration=calibration), "loudness") == pytest.approx(middle, rel=1e-4)


def test_shares_are_means_over_the_layers():
    samples = grey(5)
    columns = found(samples).columns
    mass = np.array([1, 0.5, 0.25, 0])
    top = (mass.max() / mass.sum() + 1) / 2
    effective = (mass.sum() ** 2 / (mass**2).sum() / 4 + 1) / 2
    np.testing.assert_allclose(columns["top_unit"], top, rtol=1e-5)
    np.testing.assert_allclose(columns["top_share"], top, rtol=1e-5)
    np.testing.assert_allclose(columns["effective_share"], effective, rtol=1e-5)
    np.testing.assert_allclose(columns["last_norm"], 100 * samples.images[:, 0, 0, 0] - 40, rtol=1e-4)


def test_a_silent_network_is_no_trouble():
    network = Corner()
    with torch.no_grad():
        network.see.weight.zero_()
        network.corner.bias.fill_(-1000)
    findings = found(grey(), network, read={"patch.fake": finished(Patch(), grey().images + 0.3)})
    attacked = [name for name in findings.columns if name.partition("_")[0] in ("noise", "pixel")]
    assert all(np.isfinite(column).all() for name, column in findings.columns.items() if name not in attacked)
    assert findings.columns["loudness"].max() == 0
    table = concluded(findings).tables[0]
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    assert cells["share of zeros"] == 1
    assert cells["units never above zero"] == 4
    assert cells["kurtosis"] is cells["tail index"] is cells["share of its loudest unit"] is None
    json.dumps(table.rows, allow_nan=False)


@pytest.mark.parametrize("exact", [False, True])
def test_the_table_says_what_numpy_and_scipy_say(exact):
    network = rectified(Shared)
    samples = toy_samples(30, network=network)
    check = ActivationProfile(exact_kurtosis=exact)
    findings = found(samples, network, check)
    model = toy_model(network, samples.images)
    parts = [[] for _ in model.sites]
    tap_activations(model.exact, model.sites, samples.images, lambda at, x, rows: parts[at].append(x[:rows].double()))
    (table,) = concluded(findings).tables
    assert "on 30 clean images" in table.title
    assert "10.00% of such images" in table.title
    for row, site, part in zip(table.rows, model.sites, parts, strict=True):
        cells, values = dict(zip(table.columns, row, strict=True)), torch.cat(part).numpy()
        assert (cells["layer"], cells["function"], cells["units"]) == (site.name, "relu", 4)
        assert cells["values"] == values.size
        assert cells["share of zeros"] == pytest.approx((values == 0).mean(), rel=1e-3)
        for share in (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999):
            wanted = np.quantile(values, share, method="inverted_cdf")
            assert cells[f"{100 * share:g} %"] == pytest.approx(wanted, rel=0.005)
        wanted = np.quantile(values[values > 0], 0.5, method="inverted_cdf")
        assert cells["median of the others"] == pytest.approx(wanted, rel=0.005)
        assert cells["largest"] == pytest.approx(values.max(), rel=1e-3)
        kurtosis = scipy.stats.kurtosis(values, axis=None, fisher=False)
        assert cells["kurtosis"] == pytest.approx(kurtosis, rel=5e-4 if exact else 1e-2)
        mass = values.sum((0, 2, 3))
        assert cells["share of its loudest unit"] == pytest.approx(mass.max() / mass.sum(), rel=1e-3)
        assert cells["units never above zero"] == (values.max((0, 2, 3)) <= 0).sum()


def test_the_figures_have_the_layers_in_order_and_the_attacks_beside_the_controls():
    samples = grey()
    attacked = samples.images.clone()
    attacked[:, :, 0, 0] = 1
    findings = found(samples, read={"patch.fake": finished(Patch(), attacked)})
    loud, added = concluded(findings).profiles
    assert loud.places == added.places == ("relu", "relu:2")
    lines = {line.name: line.values for line in loud.lines}
    assert list(lines)[-3:] == ["largest, clean images", "largest, attacked images", "largest, perturbations moved"]
    assert lines["largest, attacked images"] == pytest.approx((1, 60), rel=1e-3)
    assert lines["largest, perturbations moved"][1] < 6
    ratios = {line.name: line.values for line in added.lines}
    assert list(ratios) == ["Stickers and patches", "Stickers and patches, moved elsewhere"]
    before = 100 * samples.images[:, 0, 0, 0].double().numpy() - 40
    assert ratios["Stickers and patches"][1] == pytest.approx(np.exp(np.log(60 / before).mean()), rel=1e-3)
    assert ratios["Stickers and patches, moved elsewhere"][1] == pytest.approx(1)


def test_shards_conclude_what_one_pass_concludes():
    network = rectified(Shared)
    samples = toy_samples(40, network=network)
    attacked = (samples.images + 0.1).clamp(0, 1)
    whole = found(samples, network, read={"noise.fake": finished(Noise(), attacked)})
    parts = []
    for rows in (range(0, 7), range(7, 8), range(8, 40)):
        read = {"noise.fake": finished(Noise(), attacked[list(rows)])}
        parts.append(found(samples.take(rows), network, read=read, calibration=samples))
    assert concluded(*parts) == concluded(whole)
    for name, tally in whole.tallies.items():
        merged = merge_tallies([part.tallies for part in parts])[name]
        if tally.array.dtype.kind in "iu":
            np.testing.assert_array_equal(merged, tally.array)
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(np.concatenate([part.columns[name] for part in parts]), column)


def test_nan_and_infinity_have_a_column_of_their_own_where_there_are_some():
    class Overflowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Corner()

        def forward(self, images):
            seen = self.body.see(images).relu()
            wild = torch.where(seen > 0.45, torch.inf, seen).relu()
            return torch.where(wild.isinf(), 1.0, wild).mean((2, 3))

    findings = found(grey(), Overflowing())
    table = concluded(findings).tables[0]
    assert table.columns[-1] == "NaN or infinite"
    assert [row[-1] for row in table.rows] == [0, int((grey().images > 0.45).sum())]
    assert "NaN or infinite" not in concluded(found(grey())).tables[0].columns


def test_the_gallery_shows_where_the_loudest_unit_is():
    samples = grey(9)
    attacked = samples.images.clone()
    attacked[:, :, 3, 2] = 1
    read = {"patch.fake": finished(Patch(), attacked, [True] + [False] * 8)}
    exhibits = found(samples, read=read, check=ActivationProfile(gallery=20)).exhibits
    assert len(exhibits) == 10
    assert [exhibit.score for exhibit in exhibits] == sorted((one.score for one in exhibits), reverse=True)
    shown = next(exhibit for exhibit in exhibits if exhibit.caption.startswith("patch.fake on class 0"))
    assert "activation of relu, unit 0 at 3 of 6, 2 of 6" in shown.caption
    assert [panel.title for panel in shown.panels] == ["clean: relu", "attacked: relu", "perturbation moved: relu"]
    assert np.unravel_index(shown.panels[1].array[:, :, 1].argmax(), (6, 6)) == (3, 2)
    clean = next(exhibit for exhibit in exhibits if exhibit.caption.startswith("class 0"))
    row = samples.ids.index(clean.sample)
    assert clean.score == pytest.approx(found(samples).columns["loudness"][row])
    assert "relu:2, unit 0" in next(one.caption for one in exhibits if "relu:2" in one.caption)
    assert not found(samples, read=read, check=ActivationProfile(gallery=0)).exhibits


@pytest.mark.parametrize("shape", [(1, 12, 8), (3, 8, 16)])
def test_grey_and_oblong_images_and_two_classes_are_taken(shape):
    network = nn.Sequential(nn.Conv2d(shape[0], 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(2))
    network(torch.rand(2, *shape))
    samples = toy_samples(6, shape=shape, network=network.eval())
    findings = found(samples, network, read={"noise.fake": finished(Noise(), samples.images + 0.1)})
    assert all(len(column) == 6 for column in findings.columns.values())
    assert concluded(findings).tables[0].rows[0][0] == "1"


def test_a_model_without_activations_is_skipped_in_words():
    samples = toy_samples(4, network=LinearModel())
    model = toy_model(LinearModel(), samples.images)
    planned = configure(ActivationProfile, {}, "profile.activations", "test")
    words = missing_capability(planned, model)
    assert words.endswith("it calls no activation function")
    blind = replace(model, exact=None, no_gradients="it is a black box")
    assert missing_capability(planned, blind).endswith("it is a black box")
    network = base_network()
    samples = toy_samples(4, network=network)
    assert missing_capability(planned, toy_model(network, samples.images)) is None


def test_the_model_and_the_search_copy_carry_nothing_afterwards():
    network = base_network()
    samples = toy_samples(6, network=network)
    before = {name: dict(module.__dict__) for name, module in network.named_modules()}
    found(samples, network)
    assert {name: dict(module.__dict__) for name, module in network.named_modules()} == before


CHECKS = [
    configure(PGD, {"eps": 0.1, "steps": 3}, "noise.pgd", "test"),
    configure(ActivationProfile, {}, "profile.activations", "test"),
]


def executed(folder, shard, **settings):
    from auditkit.assemble import assemble
    from auditkit.engine import execute
    from auditkit.journal import Journal
    from auditkit.progress import Silent
    from auditkit.store import Store

    network = base_network()
    samples = toy_samples(30, network=network)
    chosen = settings_from({"shard": shard, "precision": "float32", **settings})
    bench = set_up(Recipe(network, (samples.images.numpy(), samples.labels.numpy()), chosen))
    store = Store(folder)
    folder.mkdir(exist_ok=True)
    execution = execute(bench, CHECKS, store, Silent(), Journal(folder, {}))
    result, table, *_ = assemble(bench, CHECKS, [], execution, store, [], {}, None)
    return result.check("profile.activations").model_dump(exclude={"seconds"}), table


def test_the_engine_calibrates_it_on_all_and_lets_it_read_attacks_whatever_the_shards(tmp_path):
    record, table = executed(tmp_path / "a", 30)
    assert record["status"] == "done", record["reason"]
    assert table["profile.activations/noise_attacked"].sum() == table["noise.pgd/found"].sum() > 0
    for name, settings in (("b", {"shard": 7}), ("c", {"shard": 16, "batch": 3})):
        other, columns = executed(tmp_path / name, **settings)
        assert other == record
        for column in table:
            np.testing.assert_array_equal(columns[column], table[column])
    again, _ = executed(tmp_path / "b", 7)
    assert again == record


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
@pytest.mark.parametrize("name", ["resnet20.onnx", "resnet20_int8.onnx", "resnet20.pt"])
def test_on_real_networks_of_every_format_all_nineteen_layers_are_profiled(name):
    settings = settings_from({"limit": 16, "batch": 16, "device": "cpu", "precision": "float32"})
    bench = set_up(Recipe(str(CIFAR / name), str(CIFAR / "images_600.npz"), settings))
    samples, check = bench.read(0, 16).samples, ActivationProfile()
    lesson = run_learn(check, bench.model, samples)
    findings = run_check(check, bench.model, samples, lesson=lesson)
    table = concluded(findings).tables[0]
    assert len(table.rows) == 19
    cells = dict(zip(table.columns, table.rows[-1], strict=True))
    assert 4 < cells["99 %"] < cells["largest"] < 40
    assert 0.4 < cells["share of zeros"] < 0.6
