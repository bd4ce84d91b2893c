"""What auditkit is built from: the lock is complete, vulnerabilities are named aloud, and the bill has all parts."""

from __future__ import annotations

import importlib.util
import json
import re
import stat
import subprocess
import sys
import types
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "packaging" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock, audit_dependencies, sbom = tool("lock"), tool("audit_dependencies"), tool("sbom")
LOCK = lock.LOCK.read_text(encoding="utf-8")


def test_the_lock_names_every_installed_distribution_in_the_version_that_is_installed() -> None:
    if lock.made_for(LOCK) != lock.here():
        pytest.skip(f"the lock was made for {lock.made_for(LOCK)}, and this is {lock.here()}")
    assert lock.differences(LOCK) == [], "run `make lock`"


def test_a_line_that_the_lock_lacks_has_too_much_or_has_otherwise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "installed", lambda: {"a-b": ("A_b", "1.0"), "new": ("new", "2"), "same": ("same", "3")})
    assert lock.differences("# A comment\na.b==1.1\nold==4\nsame==3\n") == [
        "a-b==1.1 is in the lock, and 1.0 is installed",
        "new==2 is installed, and the lock lacks this line",
        "old==4 is in the lock, and is not installed",
    ]


def test_a_new_lock_has_no_difference_and_says_what_it_was_made_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("old==4\n")
    monkeypatch.setattr(lock, "LOCK", file)
    assert lock.main() == 0
    written = file.read_text(encoding="utf-8")
    assert lock.differences(written) == []
    assert lock.made_for(written) == lock.here()
    assert not lock.NOT_LOCKED & lock.locked(written).keys()


def test_peers_of_the_benchmarks_are_no_part_of_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = lock.locked(lock.PEERS.read_text(encoding="utf-8"))
    assert {"torchattacks", "foolbox"} <= peers.keys()
    assert not peers.keys() & lock.locked(LOCK).keys()
    parts = [types.SimpleNamespace(name=name, version="1") for name in ("new", *peers)]
    monkeypatch.setattr(lock, "distributions", lambda path: parts)
    assert lock.installed() == {"new": ("new", "1")}


def test_the_lock_pins_exact_versions_only_in_order_and_once() -> None:
    pins = [line for line in LOCK.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins)
    names = [lock.canonical(pin.partition("==")[0]) for pin in pins]
    assert names == sorted(set(names))


def stand_in(folder: Path, output: object, complaint: str, code: int) -> Path:
    """A program in the place of pip-audit that writes this and returns this."""
    text = output if isinstance(output, str) else json.dumps(output)
    program = folder / "pip-audit"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nassert '--no-deps' in sys.argv and {str(lock.LOCK)!r} in sys.argv, sys.argv\n"
        f"sys.stdout.write({text!r})\nsys.stderr.write({complaint!r})\nsys.exit({code})\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def answers(**vulnerable: list[dict[str, object]]) -> dict[str, object]:
    pins = lock.locked(LOCK)
    return {
        "dependencies": [
            {"name": name, "version": version, "vulns": vulnerable.get(name, [])} for name, version in pins.items()
        ],
        "fixes": [],
    }


def run(program: Path | str) -> tuple[int, str]:
    script = ROOT / "tests" / "packaging" / "audit_dependencies.py"
    done = subprocess.run([sys.executable, str(script), str(program)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_only_an_audit_of_every_locked_version_without_a_finding_exits_with_0(tmp_path: Path) -> None:
    n = len(lock.locked(LOCK))
    code, output = run(stand_in(tmp_path, answers(), "No known vulnerabilities found", 0))
    assert (code, output) == (0, f"{n} of {n} locked versions looked up, 0 known vulnerabilities\n")
    fewer = answers()
    fewer["dependencies"] = fewer["dependencies"][1:]  # type: ignore[index]
    assert run(stand_in(tmp_path, fewer, "", 0))[0] == 3


def test_a_vulnerable_version_is_named_with_its_remedy_and_exits_with_1(tmp_path: Path) -> None:
    found = [
        {"id": "PYSEC-2026-1", "fix_versions": ["99.0"], "aliases": ["CVE-2026-1"], "description": "bad"},
        {"id": "PYSEC-2026-2", "fix_versions": [], "aliases": [], "description": "worse"},
    ]
    code, output = run(stand_in(tmp_path, answers(jinja2=found), "Found 2 known vulnerabilities in 1 package", 1))
    assert code == 1
    version = lock.locked(LOCK)["jinja2"]
    assert output.splitlines()[:2] == [
        f"VULNERABLE: jinja2 {version}: PYSEC-2026-1, fixed in 99.0",
        f"VULNERABLE: jinja2 {version}: PYSEC-2026-2, fixed in no version yet",
    ]


@pytest.mark.parametrize("complaint", ["", "Traceback ...\nrequests.exceptions.ConnectionError: refused\n"])
def test_a_service_that_does_not_answer_is_no_clean_audit_and_no_finding(tmp_path: Path, complaint: str) -> None:
    code, output = run(stand_in(tmp_path, "", complaint, 1))
    assert code == 3
    assert output.startswith("NOT RUN: the service of known vulnerabilities gave no answer")
    assert len(output.splitlines()) == 1
    assert ("ConnectionError: refused" in output) == bool(complaint)


def test_a_version_that_the_service_does_not_know_is_named_and_is_no_clean_audit(tmp_path: Path) -> None:
    unknown = answers()
    unknown["dependencies"][0] = {"name": "aiohttp", "skip_reason": "not found on PyPI"}  # type: ignore[index]
    code, output = run(stand_in(tmp_path, unknown, "", 0))
    assert code == 3
    assert "NOT AUDITED: aiohttp: not found on PyPI" in output


def test_a_missing_pip_audit_is_told(tmp_path: Path) -> None:
    assert run(tmp_path / "nowhere") == (3, f"NOT RUN: {tmp_path / 'nowhere'}: No such file or directory\n")


@pytest.fixture(scope="module")
def bill() -> dict[str, object]:
    return json.loads(sbom.bill())


def test_the_bill_of_materials_is_valid_cyclonedx(bill) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None


def test_the_bill_names_auditkit_and_every_runtime_dependency_with_version_and_license(bill) -> None:
    assert bill["metadata"]["component"]["name"] == "auditkit"
    parts = {lock.canonical(part["name"]): part for part in bill["components"]}
    wanted = {
        lock.canonical(requirement.name)
        for requirement in map(Requirement, distribution("auditkit").requires)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }
    assert wanted <= parts.keys()
    assert {"pytest", "mlflow-skinny", "auditkit"}.isdisjoint(parts)
    for name, part in parts.items():
        assert part["version"] == distribution(name).version
        assert part["purl"].startswith(f"pkg:pypi/{name}@")
    # The metadata of these say nothing about a license.
    assert {name for name, part in parts.items() if not part.get("licenses")} <= {"onnx2fx"}
    assert parts["pydantic"]["licenses"] == [{"license": {"id": "MIT"}}]


def test_the_bill_says_who_needs_whom_down_to_the_last_part(bill) -> None:
    needs = {each["ref"]: set(each.get("dependsOn", ())) for each in bill["dependencies"]}
    assert needs.keys() == {part["bom-ref"] for part in bill["components"]} | {"auditkit"}
    assert "torch" in needs["auditkit"]
    assert "mpmath" in needs["sympy"]
    assert "mpmath" not in needs["auditkit"]


def test_an_extra_brings_its_own_parts_into_the_bill() -> None:
    assert {"pycocotools"} <= sbom.needed("auditkit", ["detectors"]).keys() - sbom.needed("auditkit").keys()
