"""The package that `auditkit checks new` writes: a small check that works, to be made into one's own."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from auditkit.errors import UsageError
from auditkit.registry import entries

__all__ = ["scaffold"]

_PART = r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*"
_ID = re.compile(rf"{_PART}(?:\.{_PART})+")

_PYPROJECT = Template("""\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$package"
version = "0.1.0"
description = "The check $check_id for auditkit."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["auditkit"]

[project.optional-dependencies]
dev = ["pytest>=8"]

# The name is the check's id; auditkit imports what stands behind it only when the check is wanted.
[project.entry-points."auditkit.checks"]
"$check_id" = "$module:$kind"

[tool.setuptools]
py-modules = ["$module"]
""")

_MODULE = Template('''\
"""The check $check_id: does the model still know its images when there is less light?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from auditkit import CLEAN_LOGITS, Context, Findings, Metric, Model, Samples, Spec
from pydantic import Field

__all__ = ["$kind"]


@dataclass(frozen=True)
class $kind:
    """Darken every image, and see whether the model names the same class."""

    spec: ClassVar[Spec] = Spec(
        id="$check_id",
        title="Predictions stay the same when there is less light",
        why="Lamps and clouds change the light without any intent. A model that is used in daylight meets dusk, too.",
        metrics=(Metric("kept", "kept", "Images that keep their predicted class"),),
        presets={"standard": {}, "full": {}},
    )

    brightness: Annotated[float, Field(ge=0, le=1)] = 0.5
    """What every pixel value is multiplied by: 1 changes nothing, 0 is black."""

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Return one column, `kept`: for each sample, whether its predicted class stays."""
        before = ctx.shelf.get(CLEAN_LOGITS).argmax(1)
        after = model.logits(samples.images * self.brightness).argmax(1)
        ctx.progress(len(samples))
        return Findings(columns={"kept": (before == after).cpu().numpy()})
''')

_TEST = Template('''\
"""The check keeps auditkit's contract, and finds what it should where the answer is known."""

from __future__ import annotations

from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples

from $module import $kind


def test_that_it_keeps_the_contract() -> None:
    assert_contract($kind, options={"brightness": 0.25})


def test_that_nothing_changes_in_full_light() -> None:
    network = LinearModel()
    samples = toy_samples(8, network=network)
    findings = run_check($kind(brightness=1), toy_model(network, samples.images), samples)
    assert findings.columns["kept"].all()


def test_that_in_the_dark_only_the_class_of_a_black_image_is_kept() -> None:
    network = LinearModel()
    samples = toy_samples(8, network=network)
    findings = run_check($kind(brightness=0), toy_model(network, samples.images), samples)
    black = network.bias.argmax()
    assert findings.columns["kept"].tolist() == (network(samples.images).argmax(1) == black).tolist()
''')

_README = Template("""\
# $package

The check `$check_id` for auditkit: do predictions stay the same when there is less light?

| option | meaning | default |
|---|---|---|
| `brightness` | what every pixel value is multiplied by | 0.5 |

| metric | meaning |
|---|---|
| `kept` | share of the images that keep their predicted class |

## Use it

```sh
pip install --editable ".[dev]"
auditkit checks show $check_id
auditkit run MODEL --data DATA --checks $check_id --gate "$check_id/kept >= 0.9"
```

## Make it yours

Everything is in `$module.py`: what the check says about itself in `spec`, its options as fields, and `run`. Then

```sh
pytest
```

tells whether it still keeps the contract: the same findings in any batch and any order, and nothing changed. The page
*Write a check* of auditkit's documentation has the rest: attacks, galleries, curves, flags, checks that learn.
""")


def scaffold(check_id: str, folder: Path | None = None) -> list[Path]:
    """Write an installable package with the check `check_id` into `folder`, and return its files.

    Without `folder` it is one in the current folder, named like the package. It may hold other files, such as those of
    a new repository; none is overwritten.

    Raises:
        UsageError: no check can have that id, one has it already, or a file is there already.
    """
    _refuse_bad(check_id)
    words = check_id.replace(".", "_")
    names = {
        "check_id": check_id,
        "package": f"auditkit-{words.replace('_', '-')}",
        "module": f"auditkit_{words}",
        "kind": check_id.rpartition(".")[2].title().replace("_", "") + "Check",
    }
    folder = folder if folder is not None else Path(names["package"])
    files = {
        folder / "pyproject.toml": _PYPROJECT,
        folder / f"{names['module']}.py": _MODULE,
        folder / f"test_{words}.py": _TEST,
        folder / "README.md": _README,
    }
    for file in files:
        if file.exists():
            raise UsageError(f"{file} is there already; move it away, or choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    for file, template in files.items():
        with file.open("x", encoding="utf-8") as new:
            new.write(template.substitute(names))
    return list(files)


def _refuse_bad(check_id: str) -> None:
    if _ID.fullmatch(check_id) is None:
        likely = re.sub(r"[\s_-]+", "_", check_id.strip().lower())
        hint = f"; did you mean {likely}?" if _ID.fullmatch(likely) else ""
        raise UsageError(
            f"the id of a check reads group.name, in lower case, such as physical.dusk; got {check_id!r}{hint}"
        )
    for entry in entries():
        if entry.id == check_id:
            raise UsageError(f"there is a check {check_id} already, of {entry.distribution}; choose another name")
