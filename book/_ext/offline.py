"""Sphinx extension: fails the build when a page would load anything from another host."""

import re
from html.parser import HTMLParser
from pathlib import Path

from sphinx.errors import ExtensionError

LOADING = {"src", "srcset", "data", "poster"}
LINKED_ONLY = {"canonical", "alternate", "license", "author", "next", "prev"}
REMOTE = re.compile(r"\s*(https?:)?//", re.IGNORECASE)
REMOTE_CSS = re.compile(r"(?:url\(\s*|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)", re.IGNORECASE)


class _Loads(HTMLParser):
    """Collects the remote addresses that the tags of a page make a browser load."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = {name: value or "" for name, value in attrs}
        loading = set(LOADING)
        if tag == "link" and not LINKED_ONLY & set(attrs.get("rel", "").split()):
            loading.add("href")
        self.found += [attrs[name] for name in attrs if name in loading and REMOTE.match(attrs[name])]


def remote_loads(folder):
    """Return `page: address` for everything that the HTML and CSS files below `folder` load from another host."""
    found = []
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix in {".html", ".css"}:
            text = path.read_text(encoding="utf-8")
            tags = _Loads(text).found if path.suffix == ".html" else []
            found += [f"{path.relative_to(folder)}: {address}" for address in tags + REMOTE_CSS.findall(text)]
    return found


def _check(app, exception):
    if exception is None and app.builder.format == "html" and (found := remote_loads(app.outdir)):
        raise ExtensionError("pages load from other hosts, but the book must work offline: " + "; ".join(found))


def setup(app):
    """Run the check after every build."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
