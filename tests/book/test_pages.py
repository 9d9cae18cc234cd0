"""What pages.py mends."""

from types import SimpleNamespace

import pages
import pytest


def script(filename=None, body=None):
    return SimpleNamespace(filename=filename, attributes={"body": body} if body else {})


def test_a_script_comes_once_in_the_order_of_the_first_and_thebe_not_at_all():
    given = [script("a.js"), script(body="let x;"), script("sphinx-thebe.js"), script("a.js"), script(body="let x;")]
    given += [script(body='const THEBE_JS_URL = "x"'), script("b.js"), script(body="let y;")]
    kept = pages.without_repeats(given)
    assert [s.filename or s.attributes["body"] for s in kept] == ["a.js", "let x;", "b.js", "let y;"]


@pytest.mark.parametrize("lists", [1, 2])
def test_the_chapters_of_all_parts_are_items_of_one_list(lists):
    part = '<p class="caption" role="heading"><span>Part</span></p>\n<ul>\n<li><a href="#x">X</a></li>\n</ul>\n'
    item = '<li class="part"><span>Part</span></li><li><a href="#x">X</a></li>'
    assert pages.one_list(part * lists) == f"<ul>{item * lists}</ul>"
