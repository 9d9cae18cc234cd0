"""Chromium of this machine, for the PDF and for the tests of the book in a browser."""

import os
import shutil

VARIABLE = "SPARSEMTL_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No network but loopback: a book that needs one shows it here. The rest keeps a browser from calling home.
ARGUMENTS = (
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


class NoChromium(Exception):
    """No browser, in one line that says what to do."""


def find():
    """Return the path of Chromium or Chrome: SPARSEMTL_CHROMIUM where it is set, else the first on the PATH."""
    named = os.environ.get(VARIABLE)
    for name in [named] if named else NAMES:
        if path := shutil.which(name):
            return path
    raise NoChromium(
        f"{VARIABLE} names {named}, which is no program here"
        if named
        else f"no Chromium or Chrome here: install one (Debian's package is chromium) or name one in {VARIABLE}"
    )


def launch(playwright):
    """Start it without a window and without a network."""
    return playwright.chromium.launch(executable_path=find(), args=list(ARGUMENTS))


# Mathematics, fonts and pictures come after the page: a function for the browser that ends when they are there.
SETTLED = """async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  await document.fonts.ready;
  await Promise.allSettled([...document.images].map((image) => image.decode()));
}"""
