"""Every page of the built book in Chromium, which reaches nothing but this machine."""

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
DESK, PHONE = {"width": 1300, "height": 900}, {"width": 390, "height": 844}
SHEET = {"width": 680, "height": 1000}  # A4 less its margins, in CSS pixels
LIMIT = 700_000  # bytes of a page without its figures
# No colours half way between two modes, nothing half faded in
STILL = "* { transition: none !important; animation: none !important; }"
# The theme makes scrolling boxes reachable 300 ms after a change of size: this ends after that, on a slow machine too.
AFTER_RESIZE = """() => new Promise((done) =>
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 350))))"""
# What sticks out on the right, and no box around it scrolls: such things are cut off or push the page sideways.
STICKS_OUT = """() => {
  const scrolls = (e) => e && (/auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const room = document.scrollingElement.clientWidth;
  return [...document.querySelectorAll("article *")]
    .filter((e) => e.checkVisibility() && !e.closest("mjx-assistive-mml"))
    .filter((e) => e.getBoundingClientRect().right > room + 1)
    .filter((e) => matchMedia("print").matches || !scrolls(e.parentElement))
    .map((e) => `${e.tagName.toLowerCase()}.${e.className}`.slice(0, 80)).slice(0, 5);
}"""
# A fold-out may list a thousand runs, in rows made alike: a dozen stand for them, or axe takes minutes for a page.
OPEN = """() => {
  document.querySelectorAll('.evidence tbody tr:nth-child(n+13)').forEach((row) => row.remove());
  document.querySelectorAll('details').forEach((fold) => { fold.open = true; });
}"""
IMAGES = """() => [...document.images].filter((i) => !i.naturalWidth || !i.alt.trim()).map((i) => i.currentSrc)"""
WIDE = """() => [...document.querySelectorAll('.shown table.results')]
  .filter((t) => t.scrollWidth > t.closest('.scroll').clientWidth + 4 || t.tHead.rows[0].cells.length > 7)
  .map((t) => `${t.id}: ${t.scrollWidth} pixels, ${t.tHead.rows[0].cells.length} columns`)"""
UNSORTED = """() => [...document.querySelectorAll('.shown table.results:not(.scorecard):has(tbody tr + tr)')]
  .filter((t) => !t.querySelector('button.sort')).map((t) => t.id)"""
SMALL = """(least) => [...document.querySelectorAll('figure.results svg text')].filter((t) => t.textContent.trim())
  .map((t) => [t, t.getScreenCTM()]).filter(([, m]) => m)
  .map(([t, m]) => [parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b), t.textContent])
  .filter(([size]) => size && size < least).slice(0, 5)"""
SCREEN, PAPER = 8.9, 9.3  # pixels of the smallest text in a figure: 9 pixels, and 7 pt
# Words on paper below 7 pt, but for raised and lowered ones, and those in figures
TINY = """() => {
  const walk = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT), found = [];
  const other = "svg, sup, sub, mjx-container, script, style";
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, size = parseFloat(getComputedStyle(e).fontSize);
    if (size < 9.3 && /\\w/.test(walk.currentNode.data) && e.checkVisibility() && !e.closest(other))
      found.push(`${size} ${e.tagName.toLowerCase()}.${e.className} ${walk.currentNode.data.trim().slice(0, 40)}`);
  }
  return found.slice(0, 5); }"""
PROSE = """() => { const copy = document.querySelector("article, main").cloneNode(true);
  copy.querySelectorAll("pre, code, script, svg, mjx-container").forEach((e) => e.remove());
  return copy.textContent; }"""
TEX = r"\\[(\[]|\$\$|\$[^$\n]+\$|\\(?:frac|sum|lambda|theta)\b"


def pages():
    """Names of all pages of the table of contents, and of those that Sphinx adds."""
    listed = re.findall(r"\b(?:root|file): (\S+)", (ROOT / "_toc.yml").read_text())
    return [*listed, "search", "genindex"]


def written(name):
    """The Markdown that a page was made from, without its code; nothing for a page of Sphinx."""
    text = ""
    if (source := ROOT / f"{name}.md").is_file():
        text = source.read_text(encoding="utf-8")
    elif (source := ROOT / f"{name}.ipynb").is_file():
        cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"```(?!\{math\}).*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def look(page, viewport=DESK, scheme="light", media="screen"):
    """Show the page anew, in a window of this size, once the theme has its colours: paper is always light."""
    page.emulate_media(color_scheme=scheme, media=media)
    if page.viewport_size != viewport:
        page.set_viewport_size(viewport)
        page.evaluate(AFTER_RESIZE)
    theme = "light" if media == "print" else scheme
    page.wait_for_function("(theme) => document.documentElement.dataset.theme === theme", arg=theme, timeout=5000)


def grave(page, **options):
    """`impact rule: element` for what axe finds to be serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
    rules = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [f"{r['impact']} {r['id']}: {node['html'][:150]}" for r in rules for node in r["nodes"][:5]]


def faults(name, shown):
    """(kind, what is wrong) of a page in its window, as readers see it: on a desk, a phone, paper, and in the dark."""
    page = shown.page
    page.add_style_tag(content=STILL)
    yield "errors, or something from elsewhere", shown.problems
    yield "headings", [] if page.locator("main h1, main h2").last.is_visible() else ["none"]
    formulas = page.locator("article .math").count()
    yield "no mathematics", re.findall(r"\$[^$]+\$|\{math\}|\\begin\{", written(name)) if not formulas else []
    yield "mathematics", page.locator("article .math:not(:has(mjx-container)), mjx-merror").all_inner_texts()
    yield "TeX in the text", re.findall(TEX, page.evaluate(PROSE))
    yield "images", page.evaluate(IMAGES)
    yield "tables", page.evaluate(WIDE)
    yield "tables that do not sort", page.evaluate(UNSORTED)
    yield "panels", [s for s in ("details.evidence", "a.code") if page.locator(s).count() > 1]
    yield "text in figures", page.evaluate(SMALL, SCREEN)
    yield "a cell", without_runs(page)
    yield "charts", not_alive(page)
    page.evaluate(OPEN)
    yield "axe", grave(page)
    look(page, PHONE)
    yield "wider than a phone", page.evaluate(STICKS_OUT)
    rules = ["scrollable-region-focusable", "meta-viewport", "link-in-text-block"]
    yield "axe on a phone", grave(page, runOnly=rules)
    yield "text in figures on a phone", page.evaluate(SMALL, SCREEN)
    look(page, SHEET, "dark")  # first: the theme hears one change at a time
    look(page, SHEET, "dark", "print")
    yield "wider than paper", page.evaluate(STICKS_OUT)
    yield "text below 7 pt on paper", page.evaluate(TINY)
    yield "text in figures below 7 pt on paper", page.evaluate(SMALL, PAPER)
    sides = page.locator(".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article")
    yield "beside the text on paper", [e.get_attribute("class") for e in sides.all() if e.is_visible()]
    look(page, DESK, "dark")
    yield "axe in the dark", grave(page, runOnly=["color-contrast"])


def without_runs(page):
    """What the box lacks that the first cell of a results table opens."""
    cell = page.locator(".shown button.value").first
    if not cell.count():
        return []
    cell.focus()
    page.keyboard.press("Enter")
    box = page.locator("#runs-dialog")
    box.wait_for()
    text = box.inner_text()
    wanted = [cell.inner_text().strip(), ".venv/bin/", "@misc{sparsemtl-", "run"]
    rows = box.locator("table.runs tbody tr").count() or "0 runs" in text
    page.keyboard.press("Escape")
    box.wait_for(state="hidden")
    return [word for word in wanted if word not in text] + ([] if rows else ["runs"])


def not_alive(page):
    """Interactive charts that do not draw, or whose still twin is not on paper alone."""
    found = []
    for figure in page.locator("figure.results:has(.chart)").all():
        figure.locator(".chart svg").wait_for()
        chart, twin = figure.locator(".chart svg"), figure.locator(".still")
        found += ["twin on a screen"] if twin.is_visible() else []
        page.emulate_media(media="print")
        found += [] if twin.is_visible() and not chart.is_visible() else ["no twin on paper"]
        page.emulate_media(media="screen")
        select = figure.locator("select").first
        before = chart.inner_html()
        select.select_option(index=1)
        page.wait_for_timeout(200)
        found += ["no change by a choice"] if chart.inner_html() == before else []
    return found


@pytest.mark.parametrize("name", pages())
def test_a_page_has_no_fault(visit, site, name):
    shown = visit(site, f"{name}.html", viewport=DESK, color_scheme="light")
    assert {kind: wrong for kind, wrong in faults(name, shown) if wrong} == {}


def test_pages_are_light_and_hashes_are_not_in_the_search(book):
    sizes = {p.name: len(re.sub("<svg.*?</svg>", "", p.read_text(), flags=re.S)) for p in book.glob("*/*.html")}
    assert {name: size for name, size in sizes.items() if size > LIMIT} == {}
    index = (book / "searchindex.js").read_text()
    stores = [json.loads(path.read_text()[14:-3])["runs"] for path in book.glob("notebooks/files/*.runs.js")]
    assert stores
    named = (book / "book" / "one_number.html").read_text()  # whose words are the hashes of two cells, on purpose
    assert not [h for runs in stores for h in list(runs)[:20] if h in index and h not in named]


def test_the_scorecard_filters_without_a_server(visit, book):
    shown = visit(f"{book.as_uri()}/", "notebooks/scorecard.html", viewport=DESK)
    rows = shown.page.locator("table.scorecard > tbody")
    every, paper = rows.count(), rows.first.get_attribute("data-paper")
    shown.page.get_by_label("Paper").select_option(paper)
    left = [row for row in rows.all() if row.is_visible()]
    assert 0 < len(left) < every
    assert {row.get_attribute("data-paper") for row in left} == {paper}


def test_the_landing_page_is_one_screen_and_that_of_the_folder(visit, site):
    shown = visit(site, viewport=DESK)
    shown.page.goto(site)
    shown.page.wait_for_url(f"**/{pages()[0]}.html")
    assert len(shown.page.evaluate(PROSE).split()) <= 350
    assert shown.page.locator("figure.results").count() == 1
    assert shown.page.locator("figure.results svg").bounding_box()["y"] + 200 < DESK["height"]
    assert shown.problems == []


# A page with mathematics, one with pictures, one with tables; the search runs in a test of its own.
@pytest.mark.parametrize(
    "name", ["book/index", "book/shin2023_method", "notebooks/shin2023_masks", "notebooks/shin2023_table1"]
)
def test_it_works_from_a_disk(visit, book, name):
    shown = visit(f"{book.as_uri()}/", f"{name}.html", viewport=DESK)
    assert shown.problems == []
    assert shown.page.locator("article .math:not(:has(mjx-container))").count() == 0
    assert shown.page.evaluate("() => [...document.fonts].filter((font) => font.status === 'error').length") == 0
    assert shown.page.evaluate("() => [...document.images].every((image) => image.naturalWidth)")


@pytest.mark.parametrize("where", ["served", "from a disk"])
def test_search_finds_the_group_lasso(request, visit, book, where):
    origin = request.getfixturevalue("site") if where == "served" else f"{book.as_uri()}/"
    shown = visit(origin, "search.html?q=group+lasso", viewport=DESK)
    found = shown.page.locator("#search-results li a").first
    found.wait_for(timeout=10_000)
    shown.page.wait_for_function("() => !/Searching/.test(document.querySelector('#search-results h2').textContent)")
    # served, the pages are read for the words around a hit; from a disk no page may read another
    excerpts = shown.page.locator("#search-results li p.context")
    if where == "served":
        excerpts.first.wait_for(timeout=10_000)
    assert (excerpts.count() > 0) == (where == "served")
    found.click()
    shown.page.wait_for_load_state()
    assert "group lasso" in shown.page.locator("article").inner_text().lower()
    assert shown.problems == []


def test_what_goes_wrong_in_a_page_is_seen(tmp_path, serve, visit):
    head = "<html lang='en'><link rel='icon' href='data:,'><title>t</title>"
    wrong = {
        "console: wrong": "<script>console.error('wrong')</script>",
        "script error: thrown": "<script>throw new Error('thrown')</script>",
        "404: ": "<img alt='' src='gone.png'>",
        "request to another host: http://192.0.2.1/x.js": "<script src='http://192.0.2.1/x.js'></script>",
        "request to another host: http://elsewhere.invalid/x": "<img alt='' src='http://elsewhere.invalid/x.png'>",
    }
    (tmp_path / "good.html").write_text(head)
    (tmp_path / "bad.html").write_text(head + "".join(wrong.values()))
    assert visit(serve(tmp_path), "good.html").problems == []
    seen = visit(serve(tmp_path), "bad.html").problems
    assert [problem for problem in wrong if not any(line.startswith(problem) for line in seen)] == []
