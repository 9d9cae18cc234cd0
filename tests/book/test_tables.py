"""tables.js on tables of our own: what sorts, in which order, and by which keys."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

STATIC = Path(__file__).parents[2] / "book/_static"


def row(*cells):
    return f"<tr><th>{cells[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in cells[1:]) + "</tr>"


def table(rows, head="<tr><th>name</th><th>value</th></tr>"):
    return f'<table class="results"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


@pytest.fixture
def show(tmp_path, serve, visit):
    """(tables) -> a page in a browser with these tables and tables.js."""
    shown = []

    def make(*tables):
        script = (STATIC / "tables.js").read_text(encoding="utf-8")
        page = f"<html lang='en'><meta charset='utf-8'><link rel='icon' href='data:,'><script>{script}</script>"
        (tmp_path / "page.html").write_text(page + "".join(tables), encoding="utf-8")
        shown.append(visit(serve(tmp_path), "page.html"))
        assert shown[0].problems == []
        return shown[0].page

    yield make
    for each in shown:
        each.context.close()


def column(page, number):
    return [text.strip() for text in page.locator(f"tbody tr > :nth-child({number})").all_inner_texts()]


@pytest.mark.parametrize(
    "upwards",
    [
        ["-3", "−0.3", "1e-05", "40 %", "1e3"],
        ["0.079 ± 0.5", "0.512 ± 0.031", "0.6 ± 0.001"],
        ["[-0.2, 0.1]", "[0.01, 0.3]", "&lt; 0.5", "9 of 10", "100 of 200"],
        ["2", "10", "1e2 kept", "m2", "m10", "zero"],
        ["7", "12ab", "2d"],
    ],
)
def test_numbers_sort_as_numbers_words_as_words_and_what_is_missing_comes_last(show, upwards):
    missing = ["not run", "&nbsp;", "–", "nan"]
    page = show(table([row("x", cell) for cell in [*missing[:2], *reversed(upwards), *missing[2:]]]))
    shown, absent = [text.replace("&lt;", "<") for text in upwards], ["not run", "", "–", "nan"]
    page.get_by_role("button", name="value").click()
    if upwards[0] == "7":
        shown = ["7", "2d", "12ab"]  # no number is cut out of a word: natural order of words after all numbers
    assert column(page, 2) == [*shown, *absent]
    page.get_by_role("button", name="value").click()
    assert column(page, 2) == [*reversed(shown), *absent]


def test_equal_cells_keep_their_order_and_a_sort_by_keyboard_says_its_direction(show):
    page = show(table([row("b", "1"), row("a", "0"), row("c", "1"), row("d", "0")]))
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert column(page, 1) == ["a", "d", "b", "c"]
    value, name = page.locator("th:has-text('value')"), page.locator("th:has-text('name')")
    assert (value.get_attribute("aria-sort"), name.get_attribute("aria-sort")) == ("ascending", None)
    page.keyboard.press("Space")
    assert column(page, 1) == ["b", "c", "a", "d"]
    assert value.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert column(page, 1) == ["a", "b", "c", "d"]
    assert (value.get_attribute("aria-sort"), name.get_attribute("aria-sort")) == (None, "ascending")


@pytest.mark.parametrize(
    "rows",
    [
        [row("only", "1")],
        ["<tr><th rowspan='2'>a</th><td>1</td></tr>", "<tr><td>0</td></tr>"],
        ["<tr><th colspan='2'>a</th></tr>", row("b", "0")],
        [row("a", "1"), "<tr><th>b</th></tr>"],
    ],
)
def test_a_table_whose_rows_do_not_stand_alone_is_left_as_it_is(show, rows):
    page = show(table(rows), table([row("a", "1"), row("b", "0")]))
    assert page.locator("table").first.locator("button").count() == 0
    assert page.locator("table").last.locator("button").count() == 2
