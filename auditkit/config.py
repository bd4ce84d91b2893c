"""The settings of an audit, the same for the command line, `auditkit.toml` and Python."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from auditkit.errors import UsageError, did_you_mean
from auditkit.quoting import printable, quoted

__all__ = ["Settings", "read_config", "settings_from"]


def _size(value: object) -> object:
    """Read 227 or 227x320 as height and width."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, str):
        parts = value.lower().split("x")
        if len(parts) in (1, 2) and all(part.strip().isdigit() for part in parts):
            height, width = int(parts[0]), int(parts[-1])
            return (height, width)
        raise ValueError(f"a size is a number such as 227, or height x width such as 227x320, not {value!r}")
    return value


def _text(value: object) -> object:
    """Take numbers and lists where the command line has `0.5,0.5,0.5`."""
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return ",".join(str(part) for part in value)
    return value


def _names(value: object) -> object:
    """Take one name, or several with commas, where a list is wanted."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _requirements(value: object) -> object:
    return (value,) if isinstance(value, str | Mapping) else value


_LARGEST_FILE = 4 * 2**20
_OF_DETECTORS = ("decode", "box_units", "overlap", "score")
_OF_RAY = ("ray_address", "gpus_per_worker")
_OF_CLASSIFIERS = ("labels", "masks", "outputs", "ood")

# Bounds that no audit comes near: beyond them, numbers can be neither computed with nor written down.
Count = Annotated[int, Field(ge=1, lt=2**31)]
Side = Annotated[int, Field(ge=1, le=2**16)]
Size = Annotated[tuple[Side, Side], BeforeValidator(_size)]
Numbers = Annotated[str, BeforeValidator(_text)]


class Settings(BaseModel):
    """Everything that can be set for an audit, but for the model and the data themselves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["smoke", "standard", "full"] = "standard"
    checks: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    options: dict[str, dict[str, Any]] = {}
    """Options of checks, by check key."""
    gates: Annotated[tuple[Any, ...], BeforeValidator(_requirements)] = ()
    """Each a text, or a table with `require`, and perhaps `level` and `waiver`."""
    baseline: Path | None = None
    """A stored audit to compare with, for gates on a drop or a rise."""
    until_decided: bool = False
    """Whether to take the images in random order, and to stop as soon as every gate is decided."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0

    weights: Path | None = None
    trust_pickle: bool = False
    mean: Numbers | None = None
    std: Numbers | None = None
    input_range: Numbers = "1"
    channel_order: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    outputs: Literal["logits", "probabilities", "labels"] = "logits"
    classes: Count | None = None
    """How many there are at least; for a network that returns labels, or boxes with labels, which do not tell."""

    labels: Path | None = None
    masks: Path | None = None
    boxes: Path | None = None
    """Where the objects are: a COCO file. The model is a detector then."""
    decode: Any = None
    """What makes boxes of a detector's own outputs: a text such as `path.py:decode`, or a function."""
    box_units: Literal["auto", "shares", "pixels"] = "auto"
    overlap: Annotated[float, Field(gt=0, le=1)] | Literal["auto", "none"] = "auto"
    """By how much boxes of one class may overlap before they count as one object."""
    score: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """How sure a detector must be of what counts as found."""
    ood: Any = None
    """The second data set, of images unlike the data: a text or path, or what `audit` takes as data."""
    resize: Size | None = None
    colour: Literal["auto", "rgb", "grey"] = "auto"
    label_offset: Annotated[int, Field(gt=-(2**31), lt=2**31)] = 0
    class_names: tuple[str, ...] | None = None
    skip_bad: bool = False
    limit: Count | None = None

    batch: Count = 128
    shard: Count = 256
    workers: Annotated[int, Field(ge=0)] = 0
    """Worker processes; 0: none, or (executor = ray) as many as the cluster has room for."""
    executor: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    """Of a cluster to use; None: one is started on this machine for as long as the audit lasts."""
    gpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """The share of a GPU that a worker on a cluster takes; several fit on one where it is below 1."""
    memory_limit: Annotated[float, Field(gt=0)] | None = None
    """Gigabytes that a worker process may hold in memory."""
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    time_limit: Annotated[float, Field(gt=0)] | None = None


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Return validated settings.

    Raises:
        UsageError: a name is unknown, or a value does not fit.
    """
    for name in values:
        if name not in Settings.model_fields:
            raise UsageError(f"there is no setting {quoted(name)}{did_you_mean(str(name), Settings.model_fields)}")
    try:
        settings = Settings.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = printable(".".join(str(part) for part in first["loc"]))
        message = printable(first["msg"].removeprefix("Value error, "))
        raise UsageError(f"{where} = {quoted(first['input'])}: {message[0].lower()}{message[1:]}") from None
    if settings.classes is not None and settings.outputs != "labels" and settings.boxes is None:
        raise UsageError("classes goes with outputs = labels; other networks tell by the number of their outputs")
    _check_detection(settings)
    _check_workers(settings)
    return settings


def _check_workers(settings: Settings) -> None:
    """Refuse what only worker processes of another kind, or any at all, could heed."""
    if settings.executor != "ray":
        for name in _OF_RAY:
            if getattr(settings, name) != Settings.model_fields[name].default:
                raise UsageError(f"{name} is for executor = ray")
        if settings.memory_limit is not None and not settings.workers:
            raise UsageError("memory_limit is for worker processes: say with workers how many")
    elif settings.memory_limit is not None:
        raise UsageError("memory_limit is for worker processes of this machine; Ray watches over memory by itself")


def _check_detection(settings: Settings) -> None:
    """Refuse settings that belong to the other kind of models."""
    if settings.boxes is None:
        fields = Settings.model_fields
        for name in _OF_DETECTORS:
            if getattr(settings, name) != fields[name].default:
                raise UsageError(f"{name} is for detectors of objects: say with boxes where the objects are")
        return
    for name in _OF_CLASSIFIERS:
        if getattr(settings, name) != Settings.model_fields[name].default:
            raise UsageError(f"{name} is for classifiers, and boxes make this an audit of a detector")


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings of an `auditkit.toml`; `model` and `data` may stand in it too.

    Raises:
        UsageError: the file cannot be read, or a key in it is unknown.
    """
    values = _read_toml(path)
    known = (*Settings.model_fields, "model", "data", "out")
    for name in values:
        if name not in known:
            raise UsageError(f"{path}: there is no setting {quoted(name)}{did_you_mean(name, known)}")
    for name in ("model", "data", "ood", "decode", "baseline", "out"):
        if not isinstance(values.get(name, ""), str):
            raise UsageError(f"{path}: {name} = {quoted(values[name])}: wanted a text")
    options = values.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(of_check, dict) for of_check in options.values()):
        raise UsageError(f'{path}: options = {quoted(options)}: wanted a table a check, such as [options."noise.pgd"]')
    folder = path.parent
    for name in ("model", "data", "ood", "weights", "labels", "masks", "boxes", "decode", "baseline", "out"):
        if isinstance(values.get(name), str):
            values[name] = _from_folder(folder, values[name])
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise UsageError(f"{path} is larger than {_LARGEST_FILE // 2**20} MiB: no file of settings is")
        return tomllib.loads(content.decode().replace("\r\n", "\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {printable(str(error))}") from None
    # Beside its own error: one of numbers with too many digits, and one of too many brackets.
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {printable(str(error))}") from None


def _from_folder(folder: Path, text: str) -> str:
    """Read a path as relative to the configuration file; leave `module:factory` and absolute paths as they are."""
    path, colon, name = text.partition(":")
    if Path(text).is_absolute() or (colon and not path.endswith(".py")):
        return text
    return str(folder / path) + colon + name
