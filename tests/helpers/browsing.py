"""A report in headless Chromium: served under the policy that Jenkins sets, looked at with and without scripts."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = [name for name, found in (("chromium", CHROMIUM), ("playwright", find_spec("playwright"))) if not found]
NO_BROWSER = f"NO BROWSER: {' and '.join(MISSING)} not installed, the report is not looked at" if MISSING else ""
STRICT = "default-src 'none'; img-src 'self'; style-src 'self'"
# What a viewer that shows a single file from anywhere can allow at most.
EMBEDDED = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SIZES = {"laptop": (1280, 800), "phone": (390, 844)}


@contextmanager
def served(folder: Path, policy: str) -> Iterator[str]:
    """Serve a folder on loopback under a content-security policy; yield its address."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/favicon.ico":  # every browser asks, no page does
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

        def end_headers(self) -> None:
            self.send_header("Content-Security-Policy", policy)
            super().end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def browser() -> Iterator[Browser]:
    """Start headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@dataclass
class Visit:
    """A page that was opened, and what its loading told."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def see(self, script: str) -> Any:
        """Return what a script of the test, not of the page, finds in it."""
        return self.page.evaluate(script)


@contextmanager
def visit(
    browser: Browser, address: str, size: str = "laptop", scheme: str = "light", *, scripts: bool = True
) -> Iterator[Visit]:
    """Open a page at a size, in a colour scheme, with or without JavaScript, and load all of its pictures."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # type: ignore[arg-type]
        java_script_enabled=scripts,
    )
    seen = Visit(context.new_page())
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("requestfailed", lambda request: seen.complaints.append(f"failed: {request.url[:99]}"))
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.goto(address)
    yield seen
    context.close()


LOAD_PICTURES = """() => {
  document.querySelectorAll("details").forEach(part => part.open = true);
  const pictures = [...document.images];
  pictures.forEach(picture => picture.loading = "eager");
  return Promise.all(pictures.map(picture => picture.decode().then(() => true, () => false)));
}"""
"""Opens all that is folded and tells of every picture whether it could be loaded."""
