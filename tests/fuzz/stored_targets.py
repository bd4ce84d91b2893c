"""Stored audits and units that strangers hand over: read, judged again, compared and rendered."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from harness import Target
from structure import bundle, unbundle

from auditkit.auditing import AuditResult, load_result
from auditkit.check import Exhibit, Findings, Mark, Panel, Tally
from auditkit.cli import cli
from auditkit.gate import judge
from auditkit.precision import Matches
from auditkit.requirements import parse_gate, parse_requirement
from auditkit.result import (
    CheckRecord,
    ColumnRecord,
    CurveRecord,
    ExhibitRecord,
    FlagRecord,
    MarkRecord,
    ModelRecord,
    NoteRecord,
    PanelRecord,
    PointRecord,
    ProfileRecord,
    Result,
    SamplesRecord,
    TableRecord,
    Verdict,
)
from auditkit.stats import mean, proportion
from auditkit.store import Store, Unit

__all__ = ["TARGETS", "example_audit", "example_result"]

_N = 8
_FORMATS = ("json", "junit", "markdown", "sarif", "cyclonedx", "in-toto", "model-index", "csv")
_DIGEST = "d" * 64


def _points(values: Sequence[int]) -> tuple[PointRecord, ...]:
    return tuple(PointRecord(x=x, label=f"{x}/255", estimate=proportion(k, _N)) for x, k in enumerate(values))


@cache
def example_result() -> Result:
    """Return a small result with everything in it that a result may have."""
    curve = CurveRecord(
        metric="robust_accuracy", title="Robust accuracy", x_label="budget", y_label="share", points=_points((8, 5, 2))
    )
    panels = tuple(
        PanelRecord(title=kind, kind=kind, array=f"noise.pgd/0/{kind}")  # type: ignore[arg-type]
        for kind in ("image", "difference", "heat", "overlay")
    )
    mark = MarkRecord(left=0.1, top=0.1, right=0.6, bottom=0.9, text="stop 99 %", tone="found")
    panels = (panels[0].model_copy(update={"marks": (mark,)}), *panels[1:])
    table = TableRecord(title="By class", columns=("class", "n", "share"), rows=(("stop", 4, proportion(3, 4)),))
    profile = ProfileRecord(
        title="Layers", x_label="layer", y_label="largest", places=("a", "b"), lines={"clean": (1.0, None)}
    )
    attack = CheckRecord(
        key="noise.pgd",
        id="noise.pgd",
        version=1,
        title="Holds",
        why="It matters.",
        distribution="auditkit 0.1.0",
        references=("https://arxiv.org/abs/1706.06083",),
        needs=("gradients",),
        status="done",
        options={"eps": ["2/255", "8/255"], "steps": 20},
        norm="linf",
        threat_model="White box.",
        metrics={
            "clean_accuracy": proportion(7, _N),
            "robust_accuracy": proportion(2, _N),
            "robust_accuracy@2/255": proportion(5, _N),
            "robust_accuracy@8/255": proportion(2, _N),
            "distance": mean(np.arange(_N) / 10),
        },
        metric_titles={"robust_accuracy": "Robust accuracy"},
        metric_columns={"robust_accuracy": ColumnRecord(column="robust@8/255", among=None, kind="share")},
        curves=(curve,),
        tables=(table,),
        profiles=(profile,),
        exhibits=(ExhibitRecord(sample="stop/0.png", caption="stop became yield", score=0.9, panels=panels),),
        queries={"forward": 20.0, "backward": 20.0},
    )
    skipped = attack.model_copy(
        update={"key": "patch.universal", "id": "patch.universal", "status": "skipped", "reason": "no gradients"}
        | {"metrics": {}, "metric_columns": {}, "exhibits": (), "curves": ()}
    )
    result = Result(
        model=ModelRecord(
            name="net.onnx",
            format="onnx",
            digest=_DIGEST,
            classes=2,
            input="RGB",
            provider="torch",
            gradients="twin",
            search_copy="none",
            preprocessing={"mean": [0.5], "std": [0.5]},
        ),
        samples=SamplesRecord(
            source="data",
            n=_N,
            skipped={"a.png": "truncated"},
            fingerprint=_DIGEST,
            shape=(3, 6, 6),
            class_names=("stop", "yield"),
        ),
        verdict=Verdict.NONE,
        gates=(),
        checks=(attack, skipped),
        flags=(FlagRecord(id="flag", check="noise.pgd", text="odd", remedy="look", doubts=("gradients",)),),
        notes=(NoteRecord(id="note", level="warning", text="odd", remedy="look"),),
        settings={"seed": 0, "preset": "smoke", "confidence": 0.95},
        disclaimer="For a test.",
        volatile={"date": "2026-11-22T09:14:03+00:00", "seconds": 1.0, "versions": {"auditkit": "0.1.0"}},
    )
    gates = ["noise.pgd/robust_accuracy >= 0.4", "noise.pgd/robust_accuracy@2/255 > 10%"]
    waived = parse_requirement(
        {
            "require": "noise.pgd/clean_accuracy >= 99%",
            "waiver": {"reason": "known", "until": "2099-01-01", "owner": "me"},
        }
    )
    return judge(result, [*map(parse_gate, gates), waived])


@cache
def example_audit() -> AuditResult:
    """Return the same with its table and pictures."""
    rng = np.random.default_rng(5)
    picture = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    arrays = {
        "noise.pgd/0/image": picture,
        "noise.pgd/0/difference": np.float32(rng.uniform(-0.1, 0.1, (6, 6, 3))),
        "noise.pgd/0/heat": np.float32(rng.uniform(0, 1, (6, 6))),
        "noise.pgd/0/overlay": np.float32(rng.uniform(0, 1, (6, 6, 4))),
    }
    table = {
        "id": np.array([f"stop/{at}.png" for at in range(_N)]),
        "label": np.arange(_N) % 2,
        "digest": np.array([f"{at:064d}" for at in range(_N)]),
        "noise.pgd/clean_correct": np.arange(_N) < 7,
        "noise.pgd/robust@8/255": np.arange(_N) < 2,
        "noise.pgd/distance": np.float32(np.arange(_N) / 10),
    }
    return AuditResult(example_result(), table, arrays, {f"noise.pgd/clean/{k}": v for k, v in _matches().items()})


def _matches() -> dict[str, Any]:
    return {
        "image": np.array([0, 1]),
        "category": np.array([0, 0]),
        "score": np.float32([0.9, 0.5]),
        "hit": np.ones((2, 10), dtype=bool),
        "ignored": np.zeros((2, 10), dtype=bool),
        "object_image": np.array([0, 1]),
        "object_category": np.array([0, 0]),
    }


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@cache
def _files() -> dict[str, bytes]:
    audited = example_audit()
    return {
        "result.json": audited.result.to_json().encode(),
        "samples.npz": _npz(audited.table),
        "exhibits.npz": _npz(audited.arrays),
        "matches.npz": _npz(audited.matches),
    }


def _stored() -> list[bytes]:
    files = _files()
    bundles = [bundle(files), bundle({"result.json": files["result.json"]})]
    bundles += [bundle({**{"result.json": files["result.json"]}, name: files[name]}) for name in list(files)[1:]]
    return bundles


def _warm_stored() -> list[bytes]:
    """Render once before anybody watches: fonts are found, and written down, at the first figure."""
    from auditkit.report import render_html

    render_html(example_result(), example_audit().arrays, layout="single")
    return _stored()


def _unpack(data: bytes, folder: Path) -> Path:
    """Write the files of a bundle that an audit has, and no others."""
    place = folder / "audit"
    place.mkdir()
    files = unbundle(data)
    for name in _files():
        if name in files:
            (place / name).write_bytes(files[name])
    return place


def _run_load(data: bytes, folder: Path) -> None:
    audited = load_result(_unpack(data, folder))
    judge(audited.result, [parse_gate("noise.pgd/robust_accuracy@2/255 >= 0.4")]).to_json()


def _call(*arguments: str) -> None:
    """Call the command line as a shell would, but for the exit."""
    outcome = CliRunner().invoke(cli, arguments, standalone_mode=False, catch_exceptions=True)
    if outcome.exception is not None:
        raise outcome.exception


def _run_formats(data: bytes, folder: Path) -> None:
    place = str(_unpack(data, folder))
    _call("gate", place)
    _call("gate", place, "--gate", "noise.pgd/robust_accuracy >= 0.4", "--json")
    for form in _FORMATS:
        _call("report", place, "--format", form, "--out", str(folder / "out" / form))


def _run_report(data: bytes, folder: Path) -> None:
    place = str(_unpack(data, folder))
    _call("report", place, "--out", str(folder / "report"))
    page = (folder / "report" / "index.html").read_text()
    for trick in ("<script>alert(1)", 'href="javascript:'):
        if trick in page:
            raise AssertionError(f"the page holds {trick}")


def _run_compare(data: bytes, folder: Path, first: bool) -> None:
    good = folder / "good"
    good.mkdir()
    for name, content in _files().items():
        (good / name).write_bytes(content)
    bad = _unpack(data, folder)
    base, new = (bad, good) if first else (good, bad)
    _call("gate", str(new), "--baseline", str(base), "--gate", "noise.pgd/robust_accuracy drop <= 2%")
    _call("compare", str(base), str(new), "--format", "html", "--out", str(folder / "compared.html"))
    _call("compare", str(base), str(new), "--format", "json", "--out", str(folder / "compared.json"))


def _units() -> list[bytes]:
    rng = np.random.default_rng(6)
    picture = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    mark = Mark(0.1, 0.1, 0.6, 0.9, "stop", "found")
    findings = Findings(
        {"robust": np.arange(4) < 2, "distance": np.float32(np.arange(4))},
        (Exhibit("a", "caption", 0.5, (Panel("clean", "image", picture, (mark,)),)),),
        np.arange(4),
        np.arange(4),
        np.uint16(rng.integers(0, 65536, (4, 3, 6, 6))),
        {"noise": np.arange(3.0)},
        {"counts": Tally(np.arange(5.0), "sum")},
        {"clean": Matches(**_matches())},
    )
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as place:
        store = Store(Path(place))
        store.put("unit", Unit(findings, 1.5))
        store.put("plain", Unit(Findings({"robust": np.arange(4) < 2}), 0.1))
        store.put_lesson("lesson", {"mean": np.arange(3.0), "file": np.arange(2)})
        return [(Path(place) / f"{name}.npz").read_bytes() for name in ("unit", "plain", "lesson")]


def _run_unit(data: bytes, folder: Path) -> None:
    (folder / "unit.npz").write_bytes(data)
    Store(folder).get("unit")


def _run_lesson(data: bytes, folder: Path) -> None:
    (folder / "unit.npz").write_bytes(data)
    Store(folder).get_lesson("unit")


TARGETS = (
    Target("stored.load", _stored, _run_load),
    Target("stored.formats", _stored, _run_formats),
    Target("stored.report", _warm_stored, _run_report),
    Target("stored.baseline", _stored, partial(_run_compare, first=True)),
    Target("stored.compare", _stored, partial(_run_compare, first=False)),
    Target("unit", _units, _run_unit),
    Target("lesson", _units, _run_lesson),
)
