"""What the extension `pages` mends in every build."""

import json

from sphinx.application import Sphinx


def test_a_book_built_again_can_be_searched_for_the_words_and_entries_of_its_pages(tmp_path):
    (tmp_path / "other.rst").write_text(":orphan:\n\n.. glossary::\n\n   gnu\n      yak\n")

    def index(text):
        (tmp_path / "index.rst").write_text(f"Title\n=====\n\n{text}\n")
        options = {"confoverrides": {"extensions": ["pages"], "html_theme": "basic"}, "status": None, "warning": None}
        Sphinx(tmp_path, None, tmp_path / "out", tmp_path / "trees", "html", **options).build()
        return json.loads((tmp_path / "out/searchindex.js").read_text()[len("Search.setIndex(") : -1])

    first, again = index("okapi"), index("zebra quagga")
    assert "okapi" in first["terms"]
    assert set(again["terms"]) == {"zebra", "quagga", "gnu", "yak"}
    assert again["indexentries"] == first["indexentries"] != {}
