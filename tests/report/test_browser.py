"""The folder report in a browser, served under the policy that Jenkins sets."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from auditkit.report import write_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
POLICY = "default-src 'none'; img-src 'self'; style-src 'self'"
# The page forbids scripts of its own, so a page beside it looks inside, at the width of a phone.
PROBE = """<!DOCTYPE html><title>probe</title>
<iframe src="report/index.html" width="390" height="9000" onload="look(this.contentDocument)"></iframe>
<script>
function look(page) {
  const images = [...page.images];
  images.forEach(image => image.loading = "eager");
  page.querySelectorAll("details").forEach(part => part.open = true);
  setTimeout(() => {
    document.title = JSON.stringify({
      verdict: page.defaultView.getComputedStyle(page.querySelector(".verdict")).display,
      wide: page.documentElement.scrollWidth,
      images: images.length,
      bars: [...page.querySelectorAll(".scale use")].filter(bar => bar.getBoundingClientRect().width).length,
      broken: images.filter(image => !image.naturalWidth).length});
  }, 2000);
}
</script>"""


class Handler(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        if "probe" not in self.path:
            self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.skipif(CHROMIUM is None, reason="NO BROWSER: install chromium to test the report under a strict policy")
def test_the_folder_is_whole_under_a_strict_policy(result, arrays, tmp_path, address):
    write_html(result, arrays, tmp_path / "report")
    (tmp_path / "probe.html").write_text(PROBE, encoding="utf-8")
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--virtual-time-budget=5000",
        "--dump-dom",
        f"{address}/probe.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "Content Security Policy" not in done.stderr
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert title is not None, done.stdout[:500]
    seen = json.loads(title[1].replace("&quot;", '"'))
    assert seen["verdict"] == "flex"
    assert seen["wide"] <= 390
    assert seen["images"] == 46
    assert seen["bars"] == 10
    assert seen["broken"] == 0
