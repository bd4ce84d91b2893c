"""`auditkit checks new` writes a package that works as it is, and never writes over anything."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

from auditkit.cli import main
from auditkit.demo import IMAGES, WEIGHTS
from auditkit.errors import UsageError
from auditkit.scaffold import scaffold

BIN = Path(sys.executable).parent
FILES = {"pyproject.toml", "README.md", "auditkit_light_lamp.py", "test_light_lamp.py"}


def shell(program, *words, path, cwd):
    """Run a program in a process of its own, with the folder `path` where an installer would put packages."""
    variables = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([BIN / program, *words], env=variables, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["auditkit", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A new package, whose entry point is announced as an installer would."""
    folder = tmp_path_factory.mktemp("new") / "auditkit-light-lamp"
    done = shell("auditkit", "checks", "new", "light.lamp", path="", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{check} = {place}" for check, place in project["entry-points"]["auditkit.checks"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[auditkit.checks]", *lines, ""]))
    return folder


def test_that_the_test_of_a_new_package_passes(package):
    done = shell("pytest", "-q", "-W", "error", "-p", "no:cacheprovider", path=package, cwd=package)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_that_a_new_check_is_run_and_gated_as_it_is(package, tmp_path):
    done = shell(
        *("auditkit", "run", "auditkit.demo.network:SignNet", "--weights", str(WEIGHTS), "--data", str(IMAGES)),
        *("--limit", "40", "--checks", "light.lamp", "--set", "light.lamp.brightness=0"),
        *("--gate", "light.lamp/kept <= 0.5", "--out", str(tmp_path / "out"), "--quiet", "--json"),
        path=package,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (check,) = json.loads(done.stdout)["checks"]
    assert (check["status"], check["distribution"]) == ("done", "auditkit-light-lamp 0.1.0")
    # The demo has more than two classes, and a black image is of one of them.
    assert 0 <= check["metrics"]["kept"]["value"] < 0.5


def test_that_only_the_module_is_installed(package):
    project = tomllib.loads((package / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["py-modules"] == ["auditkit_light_lamp"]
    assert {file.name for file in package.iterdir() if file.is_file()} == FILES


@pytest.mark.parametrize("there", sorted(FILES))
def test_that_no_file_is_written_over_and_none_beside_it(call, tmp_path, there):
    (tmp_path / there).write_text("mine")
    code, out, err = call("checks", "new", "light.lamp", "--out", str(tmp_path))
    assert (code, out) == (2, "")
    assert err == f"auditkit: {tmp_path / there} is there already; move it away, or choose another --out\n"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(there, "mine")]


def test_that_a_link_that_leads_nowhere_is_not_written_through(call, tmp_path):
    (tmp_path / "README.md").symlink_to(tmp_path / "elsewhere.md")
    code, _, err = call("checks", "new", "light.lamp", "--out", str(tmp_path))
    assert code != 0
    assert err.startswith("auditkit: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "elsewhere.md").exists()


def test_that_a_new_repository_can_be_filled(tmp_path):
    (tmp_path / "LICENSE").write_text("mine")
    assert {file.name for file in scaffold("light.lamp", tmp_path)} == FILES
    assert (tmp_path / "LICENSE").read_text() == "mine"


def test_that_the_folder_has_the_name_of_the_package(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("checks", "new", "light.old_lamp")
    assert (code, err) == (0, "")
    folder = tmp_path / "auditkit-light-old-lamp"
    assert tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"] == folder.name
    assert "class OldLampCheck:" in (folder / "auditkit_light_old_lamp.py").read_text()
    assert "next: pip install --editable auditkit-light-old-lamp\n" in out


BAD = {
    "lamp": "got 'lamp'",
    "": "got ''",
    "Light.Lamp": "did you mean light.lamp?",
    "light.old-lamp": "did you mean light.old_lamp?",
    "light.lamp\n": "did you mean light.lamp?",
    "light.1": "got 'light.1'",
    "light.lamp_": "got 'light.lamp_'",
    "../light.lamp": "got '../light.lamp'",
    "light..lamp": "got 'light..lamp'",
    'light."lamp': "group.name",
    "lumière.lampe": "group.name",
    "noise.pgd": "there is a check noise.pgd already, of auditkit ",
}


@pytest.mark.parametrize("name", BAD)
def test_that_a_name_no_check_can_have_is_refused_in_one_line(call, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("checks", "new", name)
    assert (code, out) == (2, "")
    assert err.startswith("auditkit: ")
    assert err.count("\n") == 1
    assert BAD[name] in err
    assert list(tmp_path.iterdir()) == []


def test_that_an_unwritable_place_is_one_line(call, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, err = call("checks", "new", "light.lamp", "--out", str(tmp_path / "file"))
    assert (code, out) == (3, "")
    assert err.startswith("auditkit: ")
    assert err.count("\n") == 1


@settings(max_examples=40, deadline=None)
@given(st.from_regex(r"[a-z][a-z0-9_]{0,6}(\.[a-z][a-z0-9_]{0,6}){1,2}", fullmatch=True))
def test_that_every_id_that_is_accepted_gives_files_that_can_be_read(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("any") / "package"
    try:
        files = {file.suffix: file for file in scaffold(name, folder) if not file.name.startswith("test_")}
    except UsageError:
        assert not folder.exists()
        return
    project = tomllib.loads(files[".toml"].read_text())
    Requirement(project["project"]["name"])
    ((announced, place),) = project["project"]["entry-points"]["auditkit.checks"].items()
    tree = ast.parse(files[".py"].read_text())
    (kind,) = (node.name for node in tree.body if isinstance(node, ast.ClassDef))
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert (announced, place) == (name, f"{files['.py'].stem}:{kind}")
    assert kind not in imported


def test_that_writing_a_package_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; from pathlib import Path; from auditkit.scaffold import scaffold\n"
        "scaffold('light.lamp', Path(sys.argv[1]))\n"
        "print(*sorted(sys.modules.keys() & {'torch', 'numpy', 'pydantic', 'onnx'}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
