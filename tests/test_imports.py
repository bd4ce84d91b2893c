"""Imports run downwards only; the core knows no plugin; plugins use public names only; importing stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import auditkit

CORE = Path(auditkit.__file__).parent
PLUGINS = CORE.parent / "plugins" / "auditkit_plugins"

# A module may import from lines above its own only (a package counts as one module here).
LAYERS = (
    ("quoting",),
    ("errors", "progress", "report_templates", "rows", "split", "starter", "stats", "stored", "streams"),
    ("anytime", "archives", "budgets", "paired", "precision", "separation"),
    ("journal", "requirements"),
    ("artifacts", "check", "config", "imports", "registry", "result", "threat"),
    ("baseline", "columns", "gate", "models", "plan", "samples", "scaffold", "soundness", "store"),
    ("comparison", "contract", "findings", "joining", "objects"),
    (
        "activations",
        "bounding",
        "context",
        "covers",
        "demo",
        "origin",
        "preflight",
        "queries",
        "report",
        "saliency_map",
        "summaries",
    ),
    ("detection", "drive", "exhibits", "verification", "workbench"),
    ("preparing",),
    ("campaign", "gathering", "hardening", "noticed", "stickers", "units"),
    ("executors",),
    ("engine",),
    ("attack_findings",),
    ("attack",),
    ("assemble", "export", "testing"),
    ("until_decided",),
    ("auditing",),
    ("doctor", "integrations", "pytest_plugin", "terminal"),
    ("cli",),
    ("__main__",),
)
LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}


def modules(root):
    return sorted(path for path in root.rglob("*.py") if "__pycache__" not in path.parts)


def unit(path):
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def imported(tree, deep):
    """Yield (module, name) for imports: those at the top level, or all but those for type checkers."""
    nodes = ast.walk(tree) if deep else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            for alias in node.names:
                yield node.module, alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def core_units(path):
    for module, name in imported(parsed(path), deep=False):
        if module == "auditkit":
            yield name
        elif module.startswith("auditkit."):
            yield module.split(".")[1]


@pytest.mark.parametrize(
    "path", [path for path in modules(CORE) if path != CORE / "__init__.py"], ids=lambda p: str(p.relative_to(CORE))
)
def test_a_module_imports_from_lower_layers_only(path):
    own = unit(path)
    assert own in LAYER_OF, f"{own} has no place in LAYERS yet"
    for other in core_units(path):
        lower = other == own or LAYER_OF[other] < LAYER_OF[own]
        assert lower, f"{own} (layer {LAYER_OF[own]}) imports {other} (layer {LAYER_OF[other]})"


@pytest.mark.parametrize("path", modules(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_the_core_knows_no_plugin(path):
    for module, _ in imported(parsed(path), deep=True):
        assert module.split(".")[0] not in ("auditkit_plugins", "plugins", "tests")


ALLOWED = {"__future__", "auditkit_plugins", "numpy", "pydantic", "torch", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", modules(PLUGINS), ids=lambda p: p.name)
def test_plugins_use_public_names_only(path):
    for module, name in imported(parsed(path), deep=True):
        if module == "auditkit":
            assert name in auditkit.__all__, f"{name} is no public name"
        else:
            assert module.split(".")[0] in ALLOWED, f"{module} is not public"


def test_the_public_names_are_sorted_and_all_there():
    # Constants first, then classes, then functions, each in order: what ruff calls an isort-style sort.
    constants = [name for name in auditkit.__all__ if name.isupper()]
    classes = [name for name in auditkit.__all__ if name[0].isupper() and not name.isupper()]
    functions = [name for name in auditkit.__all__ if name.islower()]
    assert list(auditkit.__all__) == [*sorted(constants), *sorted(classes), *sorted(functions)]
    assert len(set(auditkit.__all__)) == len(auditkit.__all__)
    assert dir(auditkit) == sorted(auditkit.__all__)
    for name in auditkit.__all__:
        assert getattr(auditkit, name) is not None
    with pytest.raises(AttributeError, match="'no_such_name'"):
        _ = auditkit.no_such_name


HEAVY = "torch onnx onnxruntime onnx2fx matplotlib scipy numpy pydantic PIL pytest captum auditkit_plugins"


@pytest.mark.parametrize("statement", ["import auditkit", "from auditkit.registry import entries; assert entries()"])
def test_importing_and_listing_checks_loads_nothing_heavy(statement):
    code = f"{statement}\nimport sys\nprint(*sorted(sys.modules.keys() & set({HEAVY.split()!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_worker_does_not_wait_for_what_few_audits_need():
    code = "import auditkit.executors.worker, sys; print(*sorted(sys.modules.keys() & {'scipy.stats', 'matplotlib'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_zygote_imports_while_the_process_that_starts_it_does():
    """Who starts one has not imported torch yet."""
    code = "import auditkit.executors.zygote, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_auditkit_testing_needs_no_pytest():
    code = "import auditkit.testing, sys; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
