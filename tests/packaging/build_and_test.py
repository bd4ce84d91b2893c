"""Build the sdist and, from it, the wheel; then run the sdist's tests on the wheel, outside the source tree.

    python tests/packaging/build_and_test.py [arguments of pytest]

The running environment supplies the dependencies; the wheel is put before the installed auditkit on the path.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

SOURCE = Path(__file__).parents[2]


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(SOURCE)], check=True
        )
        (sdist,) = (folder / "dist").glob("*.tar.gz")
        (wheel,) = (folder / "dist").glob("*.whl")
        with tarfile.open(sdist) as archive:
            archive.extractall(folder / "unpacked", filter="data")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "site")  # noqa: S202 (just built here)
        (unpacked,) = (folder / "unpacked").iterdir()
        # Only what the tests read: with the package beside them, they would not test the wheel.
        for code in ("auditkit", "plugins", "report_templates"):
            (unpacked / code).rename(folder / code)
        shared = SOURCE.parent / "shared"
        if shared.is_dir():
            (unpacked.parent / "shared").symlink_to(shared)
        environment = os.environ | {"PYTHONPATH": str(folder / "site")}
        where = subprocess.run(
            [sys.executable, "-c", "import auditkit; print(auditkit.__file__)"],
            cwd=unpacked, env=environment, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        if not where.startswith(str(folder / "site")):
            raise SystemExit(f"not the wheel, but {where} would be tested")
        pytest = Path(sys.executable).parent / "pytest"
        return subprocess.run([str(pytest), *sys.argv[1:]], cwd=unpacked, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
