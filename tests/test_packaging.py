"""What an installation holds: every package of the tree, every template, every entry point, and nothing else."""

from __future__ import annotations

import configparser
from importlib.metadata import entry_points, files
from importlib.resources import files as resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"auditkit": ROOT / "auditkit", "auditkit_plugins": ROOT / "plugins" / "auditkit_plugins"}


def _packages_in_tree() -> set[str]:
    found = {"auditkit.report_templates"}
    for name, folder in SOURCES.items():
        found |= {
            ".".join([name, *path.parent.relative_to(folder).parts]).rstrip(".") for path in folder.rglob("__init__.py")
        }
    return found


@pytest.mark.skipif(not SOURCES["auditkit"].is_dir(), reason="the source tree is not beside the tests")
def test_setup_cfg_lists_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert set(config["options"]["packages"].split()) == _packages_in_tree()


def test_templates_and_demo_data_are_installed() -> None:
    templates = {item.name for item in resources("auditkit.report_templates").iterdir()}
    assert {"report.html.j2", "report.css"} <= templates
    demo = {item.name for item in resources("auditkit.demo").iterdir()}
    assert {"signs.npz", "signs.safetensors"} <= demo


def test_every_builtin_check_loads_under_its_id() -> None:
    points = [point for point in entry_points(group="auditkit.checks") if point.dist and point.dist.name == "auditkit"]
    assert points
    assert {point.name for point in points} == {point.load().spec.id for point in points}


def test_only_two_packages_reach_site_packages() -> None:
    installed = files("auditkit") or []
    tops = {
        path.parts[0] for path in installed if path.suffix == ".py" and not path.parts[0].startswith("__editable__")
    }
    assert tops <= {"auditkit", "auditkit_plugins"}


def test_the_top_level_holds_what_was_agreed() -> None:
    agreed = {
        "auditkit", "plugins", "report_templates", "tests", "docs", "benchmarks", "examples", "pyproject.toml",
        "setup.cfg", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "mkdocs.yml", "action.yml",
    }  # fmt: skip
    made_by_tools = {"PKG-INFO", "auditkit.egg-info", "build", "dist", "site", "auditkit-demo", "audit"}
    here = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert here - made_by_tools <= agreed
