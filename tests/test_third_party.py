from __future__ import annotations

import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from auditkit.cli import main
from auditkit.demo import IMAGES, WEIGHTS

FIXTURES = Path(__file__).parent / "fixtures"
PROGRAM = Path(sys.executable).parent / "auditkit"
DEMO = ("run", "auditkit.demo.network:SignNet", "--weights", str(WEIGHTS), "--data", str(IMAGES), "--quiet")
HEAVY = ("torch", "onnx", "onnxruntime", "matplotlib", "scipy", "pydantic")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def install(fixture: str, target: Path, name: str | None = None) -> Path:
    """Put a fixture where an installer would put it: its package, and what its distribution announces."""
    source = FIXTURES / fixture
    project = tomllib.loads((source / "pyproject.toml").read_text())
    name = name or project["project"]["name"]
    for package in project["tool"]["setuptools"]["packages"]:
        shutil.copytree(
            source / package, target / package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
        )
    announced = project["project"]["entry-points"]["auditkit.checks"]
    info = target / f"{name.replace('-', '_')}-{project['project']['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {project['project']['version']}\n")
    lines = [f"{check} = {place}" for check, place in announced.items()]
    (info / "entry_points.txt").write_text("\n".join(["[auditkit.checks]", *lines, ""]))
    return target


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return install("example_plugin", tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    target = install("broken_plugin", tmp_path_factory.mktemp("broken"))
    (target / "broken_plugin" / "syntax.py").write_text("def broken(:\n    pass\n")
    return target


def shell(*words: str, path: Path, **environment: str) -> Ran:
    """Run the installed program in a process of its own."""
    settings = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([PROGRAM, *words], env=settings, capture_output=True, text=True, timeout=120)
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the program in this process, with a plugin folder on the path."""

    def run(*words: str, path: Path) -> Ran:
        monkeypatch.syspath_prepend(str(path))
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "argv", ["auditkit", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return Ran(int(str(stop.value.code)), out, err)

    yield run
    for name in [name for name in sys.modules if name.partition(".")[0] in ("example_plugin", "broken_plugin")]:
        del sys.modules[name]


def assert_one_line(ran: Ran) -> None:
    assert ran.err.startswith("auditkit: "), ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert "Traceback" not in ran.out + ran.err


def test_attack_takes_forty_lines():
    source = (FIXTURES / "example_plugin" / "example_plugin" / "__init__.py").read_text()
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in blank]
    code = {line for token in tokens if not token.line.strip().startswith('"""') for line in [token.start[0]]}
    assert len(code) <= 40
    imported = re.findall(r"^from (auditkit\S*) import", source, re.MULTILINE)
    assert imported == ["auditkit"], "a third party needs public names only"


def test_list_shows_it_and_imports_nothing(example):
    ran = shell("checks", "list", "--json", path=example, PYTHONPROFILEIMPORTTIME="1")
    assert ran.code == 0
    listed = {item["id"]: item for item in json.loads(ran.out)}
    assert listed["example.brightness"] == {
        "id": "example.brightness",
        "for": "classifiers",
        "distribution": "auditkit-example 1.2.3",
        "value": "example_plugin:Brightness",
    }
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ran.err.splitlines()}
    assert not imported & {"example_plugin", "auditkit_plugins", *HEAVY}


def test_show_describes_it(example, call):
    ran = call("checks", "show", "example.brightness", path=example)
    assert ran.code == 0
    for wanted in ("auditkit-example 1.2.3", "withstand a change of brightness", "levels = 4", "robust_accuracy"):
        assert wanted in ran.out


@pytest.fixture(scope="module")
def audited(example, tmp_path_factory):
    out = tmp_path_factory.mktemp("audited")
    ran = shell(
        *DEMO,
        *("--limit", "40", "--checks", "example.brightness", "--set", "example.brightness.eps=4/255,120/255"),
        *("--gate", "example.brightness/robust_accuracy@4/255 >= 0.5"),
        *("--out", str(out), "--json"),
        path=example,
    )
    return ran, out


def test_it_runs(audited):
    ran, out = audited
    assert ran.code == 0, ran.err
    assert ran.err == ""
    result = json.loads(ran.out)
    assert result == json.loads((out / "result.json").read_text())
    (check,) = result["checks"]
    assert (check["status"], check["distribution"]) == ("done", "auditkit-example 1.2.3")
    metrics = check["metrics"]
    assert metrics["robust_accuracy"]["value"] < metrics["robust_accuracy@4/255"]["value"]
    assert metrics["overstepped"]["value"] == 0


def test_gates_work_on_it(audited, call, example):
    _, out = audited
    assert call("gate", str(out), "--gate", "example.brightness/robust_accuracy >= 0.99", path=example).code == 1
    assert call("gate", str(out), "--gate", "example.brightness/clean_accuracy >= 0.97", path=example).code == 4


def test_it_has_a_section_in_the_report(audited):
    page = (audited[1] / "report.html").read_text()
    assert "example.brightness" in page
    assert "Predictions withstand a change of brightness" in page
    assert "auditkit-example 1.2.3" in page


def test_stored_result_needs_the_plugin_no_more(audited, call, tmp_path):
    ran = call("report", str(audited[1]), "--out", str(tmp_path / "again.html"), path=tmp_path)
    assert ran.code == 0
    assert (tmp_path / "again.html").read_bytes() == (audited[1] / "report.html").read_bytes()


def test_it_fulfils_the_contract(example, monkeypatch):
    testing = pytest.importorskip("auditkit.testing")
    monkeypatch.syspath_prepend(str(example))
    monkeypatch.delitem(sys.modules, "example_plugin", raising=False)
    testing.assert_contract(importlib.import_module("example_plugin").Brightness(eps=(8 / 255, 64 / 255)))


BROKEN = {
    "broken.import": "cannot be imported: RuntimeError: the licence server",
    "broken.syntax": "cannot be imported: SyntaxError",
    "broken.missing": "cannot be imported: AttributeError",
    "broken.plain_class": "not a check",
    "broken.options": "not a check",
    "broken.wrong_id": "'broken.wrong_id'",
    "broken.raises": "ZeroDivisionError: first line",
    "broken.quits": "SystemExit: that was all",
    "broken.nan": "NaN",
    "broken.shape": r"column share of shape (39,); wanted (40,)",
    "broken.nothing": "returned NoneType; wanted Findings",
    "broken.strange": "",
    "broken.exits": "its process ended by itself (os._exit or the like, exit code 3), twice",
}


@pytest.fixture(scope="module")
def spoiled(broken, tmp_path_factory):
    out = tmp_path_factory.mktemp("spoiled")
    # Not the one that hangs, which has a test of its own.
    ran = shell(
        *DEMO,
        *("--limit", "40", "--checks", "broken.[!h]*", "--checks", "explain.saliency"),
        *("--out", str(out), "--json", "--workers", "1"),
        path=broken,
    )
    return ran, out


def test_broken_checks_spoil_only_themselves(spoiled):
    ran, out = spoiled
    assert ran.code == 3, ran.err
    assert "Traceback" not in ran.err
    checks = {check["key"]: check for check in json.loads(ran.out)["checks"]}
    assert {key for key, check in checks.items() if check["status"] == "done"} == {
        "explain.saliency",
        "broken.liar",
        "broken.markup",
    }
    assert {key for key, check in checks.items() if check["status"] == "failed"} == set(BROKEN)
    for key, reason in BROKEN.items():
        assert reason in checks[key]["reason"]
        assert "\n" not in checks[key]["reason"]
    assert (out / "report.html").is_file()


def test_overstepping_attack_gains_nothing_and_is_reported(spoiled):
    result = json.loads(spoiled[0].out)
    (liar,) = [check for check in result["checks"] if check["key"] == "broken.liar"]
    assert liar["metrics"]["robust_accuracy"]["value"] == liar["metrics"]["clean_accuracy"]["value"]
    assert liar["metrics"]["overstepped"]["value"] > 0
    assert ("broken.liar", "attack.overstepped") in [(flag["check"], flag["id"]) for flag in result["flags"]]


def test_markup_of_a_plugin_is_shown_as_text(spoiled):
    page = (spoiled[1] / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(" in page


def test_check_asked_for_by_name_that_cannot_be_imported_stops_the_run(broken, call, tmp_path):
    ran = call(*DEMO, "--checks", "broken.import,explain.saliency", "--out", str(tmp_path / "out"), path=broken)
    assert ran.code == 3
    assert_one_line(ran)
    assert "broken.import of auditkit-broken 0.0.1 cannot be imported: RuntimeError: the licence server" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("check", ["broken.import", "broken.plain_class", "broken.options", "broken.wrong_id"])
def test_check_that_cannot_be_loaded_cannot_be_shown(broken, call, check):
    ran = call("checks", "show", check, path=broken)
    assert ran.code == 3
    assert_one_line(ran)


@pytest.mark.parametrize("wanted", ["noise.twice", "noise.t*"])
def test_id_that_two_distributions_claim_is_refused(call, tmp_path, wanted):
    for name in ("auditkit-first", "auditkit-second"):
        info = tmp_path / f"{name.replace('-', '_')}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[auditkit.checks]\nnoise.twice = nowhere:Check\n")
    ran = call(*DEMO, "--checks", wanted, "--out", str(tmp_path / "out"), path=tmp_path)
    assert ran.code == 2
    assert_one_line(ran)
    assert "claimed by auditkit-first 1 and auditkit-second 1" in ran.err


def test_check_that_hangs_is_stopped_by_its_time_limit(broken, call, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(broken))
    monkeypatch.setattr("auditkit.executors.dispatch._GRACE_SECONDS", 8.0)
    ran = call(
        *DEMO,
        *("--limit", "4", "--checks", "explain.saliency,broken.hang", "--time-limit", "5"),
        *("--workers", "1", "--json", "--out", str(tmp_path)),
        path=broken,
    )
    assert ran.code == 3
    checks = {check["key"]: check for check in json.loads(ran.out)["checks"]}
    assert checks["explain.saliency"]["status"] == "done"
    assert checks["broken.hang"]["status"] == "failed"
    assert "did not end within its time limit of 5 s" in checks["broken.hang"]["reason"]
