"""What the extension `pages` mends in every build."""

import json

from sphinx.application import Sphinx


def test_a_book_built_again_can_be_searched_for_the_words_of_its_pages_alone(tmp_path):
    def words(text):
        (tmp_path / "index.rst").write_text(f"Title\n=====\n\n{text}\n")
        options = {"confoverrides": {"extensions": ["pages"], "html_theme": "basic"}, "status": None, "warning": None}
        Sphinx(tmp_path, None, tmp_path / "out", tmp_path / "trees", "html", **options).build()
        return json.loads((tmp_path / "out/searchindex.js").read_text()[len("Search.setIndex(") : -1])["terms"]

    assert "okapi" in words("okapi")
    assert set(words("zebra quagga")) == {"zebra", "quagga"}
