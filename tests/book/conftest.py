"""The built book, served on this machine only, and a Chromium that reaches nothing else."""

import contextlib
import functools
import http.server
import os
import threading
from pathlib import Path

import chromium
import pytest

ROOT = Path(__file__).parents[2]
BOOK = Path(os.environ.get("SPARSEMTL_BOOK", ROOT / "_build/html")).resolve()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Visit:
    """A page in a browser window of its own, with what went wrong in it: `problems`, one line each."""

    def __init__(self, browser, origin, address=None, **options):
        self.problems = []
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(15_000)
        self.page = self.context.new_page()
        own = (origin, "data:", "blob:")
        self.page.on("console", lambda m: self._note(m.type == "error", f"console: {m.text}"))
        self.page.on("pageerror", lambda error: self._note(True, f"script error: {error}"))
        self.page.on("request", lambda r: self._note(not r.url.startswith(own), f"request to another host: {r.url}"))
        self.page.on("response", lambda r: self._note(r.status >= 400, f"{r.status}: {r.url}"))
        if address is not None:
            self.page.goto(origin + address)
            self.page.evaluate(chromium.SETTLED)

    def _note(self, wrong, line):
        if wrong:
            self.problems.append(line)


@pytest.fixture(scope="session")
def book():
    """Folder of the built book."""
    if not (BOOK / "index.html").is_file():
        pytest.skip("no built book: 'make book' makes one, or SPARSEMTL_BOOK names its folder")
    return BOOK


@pytest.fixture(scope="session")
def serve():
    """(folder) -> address at which the folder is served on loopback until the session ends."""
    with contextlib.ExitStack() as running:

        def start(folder):
            handler = functools.partial(_QuietHandler, directory=str(folder))
            server = running.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            running.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/"

        yield start


@pytest.fixture(scope="session")
def site(book, serve):
    """Address of the built book."""
    return serve(book)


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests. Skipped where there is none, but failed where one is named that is not there."""
    try:
        chromium.find()
    except chromium.NoChromium as error:
        (pytest.fail if os.environ.get(chromium.VARIABLE) else pytest.skip)(str(error))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = chromium.launch(playwright)
        yield running
        running.close()


@pytest.fixture
def visit(browser):
    """(origin, address, **options) -> Visit, closed after the test; without an address, of an empty page."""
    shown = []

    def show(*where, **options):
        shown.append(Visit(browser, *where, **options))
        return shown[-1]

    yield show
    for each in shown:
        each.context.close()
