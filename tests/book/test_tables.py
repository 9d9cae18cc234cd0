"""tables.js on tables of our own: what sorts, in which order, and by which keys."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

STATIC = Path(__file__).parents[2] / "book/_static"


def row(*cells):
    return f"<tr><th>{cells[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in cells[1:]) + "</tr>"


def table(rows):
    head = "<thead><tr><th>name</th><th>value</th></tr></thead>"
    return f'<table class="results">{head}<tbody>{"".join(rows)}</tbody></table>'


@pytest.fixture
def show(tmp_path, serve, visit):
    """(tables) -> a page in a browser with these tables and tables.js."""

    def make(*tables):
        script = (STATIC / "tables.js").read_text(encoding="utf-8")
        page = f"<html lang='en'><meta charset='utf-8'><link rel='icon' href='data:,'><script>{script}</script>"
        (tmp_path / "page.html").write_text(page + "".join(tables), encoding="utf-8")
        shown = visit(serve(tmp_path), "page.html")
        assert shown.problems == []
        return shown.page

    return make


def column(page, number):
    return [text.strip() for text in page.locator(f"tbody tr > :nth-child({number})").all_inner_texts()]


@pytest.mark.parametrize(
    "upwards",
    [["-3", "−0.3", "1e-05", "40 %", "1e3"], ["0.079 ± 0.5", "0.512 ± 0.031", "0.6 ± 0.001"],
     ["[-0.2, 0.1]", "[0.01, 0.3]", "&lt; 0.5", "9 of 10", "100 of 200"], ["2", "10", "1e2 kept", "m2", "m10", "zero"],
     ["7", "2d", "12ab"]],  # no number is cut out of a word
)  # fmt: skip
def test_numbers_sort_as_numbers_words_as_words_and_what_is_missing_comes_last(show, upwards):
    missing = ["not run", "&nbsp;", "–", "nan"]
    page = show(table([row("x", cell) for cell in [*missing[:2], *reversed(upwards), *missing[2:]]]))
    shown, absent = [text.replace("&lt;", "<") for text in upwards], ["not run", "", "–", "nan"]
    page.get_by_role("button", name="value").click()
    assert column(page, 2) == [*shown, *absent]
    page.get_by_role("button", name="value").click()
    assert column(page, 2) == [*reversed(shown), *absent]


def test_equal_cells_keep_their_order_and_a_sort_by_keyboard_says_its_direction(show):
    page = show(table([row("b", "1"), row("a", "0"), row("c", "1"), row("d", "0")]))
    steps = ("Tab Tab Enter", "adbc", "ascending", None), ("Space", "bcad", "descending", None)
    for keys, names, *directions in (*steps, ("Shift+Tab Enter", "abcd", None, "ascending")):
        for key in keys.split():
            page.keyboard.press(key)
        assert column(page, 1) == list(names)
        heads = [page.locator(f"th:has-text('{head}')") for head in ("value", "name")]
        assert [head.get_attribute("aria-sort") for head in heads] == directions


def test_a_table_whose_rows_do_not_stand_alone_is_left_as_it_is(show):
    left = [[row("only", "1")], [row("a", "1"), "<tr><th>b</th></tr>"],
            ["<tr><th colspan='2'>a</th></tr>", row("b", "0")],
            ["<tr><th rowspan='2'>a</th><td>1</td></tr>", "<tr><td>0</td></tr>"]]  # fmt: skip
    page = show(*map(table, left), table([row("a", "1"), row("b", "0")]))
    assert [each.locator("button").count() for each in page.locator("table").all()] == [0, 0, 0, 0, 2]
