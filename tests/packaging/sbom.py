"""Write a software bill of materials (CycloneDX 1.6) of auditkit and all that it needs to run; `make sbom`.

    .venv/bin/python tests/packaging/sbom.py OUT [EXTRA ...]

Versions and licenses are those of the installed distributions. The bill of a *model* is another thing: that is
`auditkit report --format cyclonedx`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "auditkit"
_CLASSIFIER = "License :: "
# Texts of whole licenses stand in the field that is meant for a name.
_LONGEST_NAME = 100


def needed(root: str, extras: Iterable[str] = ()) -> dict[str, tuple[Distribution, set[str]]]:
    """Return every distribution that `root` needs here, itself included, each with the names of those it needs."""
    found: dict[str, tuple[Distribution, set[str]]] = {}
    done: set[tuple[str, str]] = set()
    due = [(canonicalize_name(root), extra) for extra in ("", *extras)]
    while due:
        name, extra = due.pop()
        if (name, extra) in done:
            continue
        done.add((name, extra))
        dist, direct = found.setdefault(name, (distribution(name), set()))
        for requirement in map(Requirement, dist.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                child = canonicalize_name(requirement.name)
                direct.add(child)
                due += [(child, each) for each in ("", *requirement.extras)]
    return found


def licenses(dist: Distribution) -> list[License | LicenseExpression]:
    """Return what a distribution says about its license: an expression, else its name, else its classifiers."""
    factory = LicenseFactory()
    if expression := dist.metadata.get("License-Expression"):
        return [factory.make_from_string(expression)]
    name = (dist.metadata.get("License") or "").strip()
    if name and "\n" not in name and len(name) <= _LONGEST_NAME and name.lower() != "unknown":
        return [factory.make_from_string(name)]
    classifiers = [each for each in dist.metadata.get_all("Classifier") or () if each.startswith(_CLASSIFIER)]
    return [factory.make_with_name(each.rpartition(" :: ")[2]) for each in classifiers]


def component(dist: Distribution) -> Component:
    """Return a distribution as a component; a build's own label (`+cpu`) belongs to its version."""
    name = canonicalize_name(dist.name)
    return Component(
        name=dist.name,
        version=dist.version,
        type=ComponentType.APPLICATION if name == ROOT else ComponentType.LIBRARY,
        bom_ref=name,
        purl=PackageURL("pypi", None, name, dist.version),
        licenses=licenses(dist),
        description=dist.metadata.get("Summary"),
    )


def bill(extras: Iterable[str] = ()) -> str:
    """Return the bill of materials as JSON."""
    parts = needed(ROOT, extras)
    components = {name: component(dist) for name, (dist, _) in parts.items()}
    bom = Bom(components=[each for name, each in components.items() if name != ROOT])
    bom.metadata.component = components[ROOT]
    for name, (_, direct) in parts.items():
        bom.register_dependency(components[name], [components[child] for child in sorted(direct)])
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def main() -> int:
    """Write the bill, and say how much is in it."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    out = Path(sys.argv[1])
    text = bill(sys.argv[2:])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    sys.stdout.write(f"written: {out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
