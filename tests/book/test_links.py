"""Every link inside the built book leads somewhere: file and anchor."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.browser


class _Page(HTMLParser):
    """Anchors of a page, and the addresses that it links to or loads."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.addresses = {"", "top"}, set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = {name: value or "" for name, value in attrs}
        self.anchors.update({attrs.get("id", ""), attrs.get("name", "") if tag == "a" else ""})
        self.addresses.update(attrs[name] for name in ("href", "src") if name in attrs)


def broken_links(folder):
    """`page: address` for each address inside `folder` to which no file or no anchor belongs."""
    folder = Path(folder).resolve()
    pages = {p: _Page(p) for p in sorted(folder.rglob("*.html")) if "_static" not in p.relative_to(folder).parts}
    broken = []
    for path, page in pages.items():
        for address in sorted(page.addresses):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = target.is_file() and (target not in pages or unquote(parts.fragment) in pages[target].anchors)
            if not found or not target.is_relative_to(folder):
                broken.append(f"{path.relative_to(folder)}: {address}")
    return broken


def test_every_link_inside_the_book_leads_to_a_file_and_an_anchor(book):
    assert len(list(book.rglob("*.html"))) > 10
    assert broken_links(book) == []


def test_a_broken_link_is_found(tmp_path):
    whole, broken = ["#here", "other.html?q=1#there"], ["#gone", "../outside.html", "gone.html", "other.html#gone"]
    (tmp_path / "book").mkdir()
    (tmp_path / "outside.html").write_text("<p>")
    (tmp_path / "book/other.html").write_text('<p id="there">')
    links = "".join(f'<a href="{address}">link</a>' for address in whole + broken)
    (tmp_path / "book/page.html").write_text(f'<p id="here">{links}')
    assert broken_links(tmp_path / "book") == [f"page.html: {address}" for address in broken]
