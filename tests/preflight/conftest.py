"""Networks that are put together with their images in the wrong way, and what the preflight makes of them."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from auditkit.demo import IMAGES
from auditkit.demo.network import sign_net
from auditkit.models.base import Model
from auditkit.models.loaded import Loaded
from auditkit.models.open import load_model
from auditkit.models.preprocess import Preprocessing, parse_channels, parse_range
from auditkit.models.tryout import try_out
from auditkit.preflight import Diagnosis, diagnose
from auditkit.samples import Samples, open_dataset

CPU = torch.device("cpu")
BATCH = 24


class Wrapped(nn.Module):
    """A network behind a function of its input, and before one of its output."""

    def __init__(self, network: nn.Module, before=lambda x: x, after=lambda y: y) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.network(self.before(images)))


COLOURS = torch.tensor(
    [
        [0.2, 0.2, 0.5],
        [0.2, 0.4, 0.2],
        [0.2, 0.8, 0.4],
        [0.4, 0.2, 0.8],
        [0.4, 0.6, 0.6],
        [0.6, 0.4, 0.2],
        [0.6, 0.8, 0.8],
        [0.8, 0.2, 0.4],
        [0.8, 0.6, 0.2],
        [0.8, 0.5, 0.7],
    ]
)


class ColourNet(nn.Module):
    """Names the nearest of ten colours: any change of range, normalisation or channel order leads it astray."""

    def forward(self, images: Tensor) -> Tensor:
        return -100 * (images.mean((2, 3))[:, None] - COLOURS).square().sum(2)


@dataclass
class Examination:
    """What the preflight found, and how accurate the network is as configured and with the remedy."""

    diagnoses: tuple[Diagnosis, ...]
    before: float
    after: float
    rows: int
    loaded: Loaded = field(repr=False)

    @property
    def warnings(self) -> dict[str, Diagnosis]:
        found = [each for each in self.diagnoses if each.note.level == "warning"]
        return {each.note.id: each for each in found}

    @property
    def infos(self) -> dict[str, Diagnosis]:
        return {each.note.id: each for each in self.diagnoses if each.note.level == "info"}

    @property
    def line(self) -> str:
        (remedy,) = {each.remedy for each in self.warnings.values()}
        return remedy.option_line


def typed(line: str) -> tuple[Preprocessing, int]:
    """What the command line makes of the options."""
    words = shlex.split(line)
    given = dict(zip(words[::2], words[1::2], strict=True))
    offset = int(given.pop("--label-offset", 0))
    settings = {}
    for option, value in given.items():
        name = option.removeprefix("--").replace("-", "_")
        if name == "input_range":
            settings[name] = parse_range(value)
        else:
            settings[name] = parse_channels(value, option) if name in ("mean", "std") else value
    return Preprocessing(**settings), offset


def accuracy(model: Model, samples: Samples, offset: int = 0) -> float:
    return float((model.logits(samples.images).argmax(1) == samples.labels + offset).float().mean())


def examine(
    source: nn.Module | Path | Loaded,
    samples: Samples,
    steps: Preprocessing | None = None,
    *,
    class_names: tuple[str, ...] | None = None,
    label_offset: int = 0,
) -> Examination:
    steps = steps or Preprocessing()
    loaded = source if isinstance(source, Loaded) else load_model(source, device=CPU)
    model = try_out(loaded, steps, samples.images[:16], CPU, BATCH)
    rows = []

    def counted(inputs: Tensor) -> object:
        rows.append(len(inputs))
        return loaded.run(inputs)

    found = diagnose(
        replace(loaded, run=counted),
        steps,
        model,
        samples,
        class_names=class_names,
        label_offset=label_offset,
    )
    before = after = accuracy(model, samples)
    remedies = [each.remedy for each in found if each.remedy is not None]
    if remedies:
        wanted, offset = typed(remedies[-1].option_line)
        assert wanted == remedies[-1].steps
        assert offset == remedies[-1].label_offset + label_offset
        right = try_out(replace(loaded, network=None), wanted, samples.images[:16], CPU, BATCH)
        after = accuracy(right, samples, remedies[-1].label_offset)
    return Examination(found, before, after, sum(rows), loaded)


def export(network: nn.Module, path: Path, example: Tensor, *, fixed: bool = False, **options: object) -> Path:
    """Write the network as an ONNX file."""
    axes = None if fixed else {"image": {0: "n"}, "scores": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes=axes,
            **options,
        )
    return path


@pytest.fixture(scope="session")
def signs() -> Samples:
    dataset = open_dataset(str(IMAGES))
    return dataset.read(0, len(dataset)).samples


@pytest.fixture(scope="session")
def colours() -> Samples:
    labels = torch.arange(200) % 10
    noise = torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.08
    images = (COLOURS[labels][:, :, None, None] + noise).clamp(0, 1)
    return Samples(images, labels, tuple(f"{row}.png" for row in range(200)))


@pytest.fixture
def colour_net() -> nn.Module:
    return ColourNet()


@pytest.fixture
def network() -> nn.Module:
    return sign_net()


@pytest.fixture(name="examine")
def _examine() -> Callable[..., Examination]:
    return examine


@pytest.fixture(name="export")
def _export() -> Callable[..., Path]:
    return export


@pytest.fixture
def wrapped() -> type[Wrapped]:
    return Wrapped
