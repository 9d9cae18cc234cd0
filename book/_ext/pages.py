"""Sphinx extension: mends what Sphinx puts wrongly into every page, and puts the files of a page beside it.

What a notebook shows holds its own files, so that it works alone: a table's CSV as a data address, the runs behind a
page as JSON. Here they become files, which keeps pages small and hashes out of the search.
"""

import base64
import re
import shutil
from pathlib import Path

from bs4 import BeautifulSoup
from sphinx.util.index_entries import split_index_msg

CSV = re.compile(r'download="([^"]+)" href="data:text/csv;charset=utf-8;base64,([^"]*)"')
RUNS = re.compile(r'(<script type="application/json" class="runs") data-file="([^"]+)">(.*?)</script>', re.DOTALL)
FILES = "files"  # folder beside the page


def _source(script):
    """What tells two scripts or style sheets apart: the file, or the text where it stands in the page."""
    return str(script.filename or script.attributes.get("body"))


def without_repeats(scripts):
    """Each once, and none of Thebe: it would come from another host, and declared twice it is an error."""
    kept = {}
    for script in scripts:
        source = _source(script)
        if "thebe" not in source.lower():
            kept.setdefault(source, script)
    return list(kept.values())


def with_list_items(body):
    """The entries of a bibliography as items of a list: docutils gives them a role that no list may hold."""
    return body.replace(' role="doc-biblioentry"', ' role="listitem"')


def one_list(toc):
    """The contents of the book on one page as one list, parts as items of it: of several the theme reads the first."""
    soup = BeautifulSoup(toc, "html.parser")
    whole = soup.new_tag("ul")
    for element in soup.find_all(["p", "ul"], recursive=False):
        if element.name == "p":
            element.name, element.attrs = "li", {"class": ["part"]}
            whole.append(element)
        else:
            whole.extend(element.find_all("li", recursive=False))
    return str(whole)


def with_files(body, folder):
    """The body with its files written into a folder `files` of `folder` and linked to."""

    def write(name, content):
        path = Path(folder) / FILES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"{FILES}/{name}"

    def csv(match):
        return f'download href="{write(match[1], base64.b64decode(match[2]))}"'

    def runs(match):
        place = write(match[2], f"companionRuns({match[3].strip()});\n".encode())
        return f'{match[1]} data-src="{place}"></script>'

    return RUNS.sub(runs, CSV.sub(csv, body))


def _mend(app, pagename, templatename, context, doctree):
    for kind in ("script_files", "css_files"):
        context[kind] = without_repeats(context[kind])
    if "body" in context:
        folder = (Path(app.outdir) / pagename).parent
        context["body"] = with_files(with_list_items(context["body"]), folder)


def _list(app, pagename, templatename, context, doctree):
    if app.builder.name == "singlehtml" and context.get("toc"):
        context["toc"] = one_list(context["toc"])


def _search_of_a_book_built_again(app):
    """Sphinx keeps words that no page has any more, and forgets the index entries of pages that it did not read."""
    if indexer := getattr(app.builder, "indexer", None):
        for name in app.env.found_docs - indexer._index_entries.keys():
            entries = app.env.domaindata["index"]["entries"].get(name, ())
            found = {
                (part, at or "", main) for kind, value, at, main, _ in entries for part in split_index_msg(kind, value)
            }
            indexer._index_entries[name] = sorted(found)
        for words in (indexer._mapping, indexer._title_mapping):
            for word in [word for word, pages in words.items() if not pages]:
                del words[word]
    return ()  # pages to add


def _assets(app, exception):
    """Write what all pages share: Vega for interactive charts, every run as CSV and Parquet."""
    if exception is None and app.builder.name == "html":
        import vl_convert
        from companion.evidence import flat
        from companion.records import committed

        static, vega = Path(app.outdir) / "_static", Path(app.outdir).parent / "vega.js"
        if not vega.exists():  # takes seconds
            bundle = vl_convert.javascript_bundle("window.companionVega = vegaEmbed;")
            vega.write_text(f"(() => {{\n{bundle}\n}})();\n", encoding="utf-8")  # its names are no page's
        shutil.copy(vega, static)
        table = flat(committed(Path(app.srcdir) / "results"))
        mixed = [name for name in table if table[name].dtype == object]
        table = table.astype(dict.fromkeys(mixed, "string"))
        table.to_csv(static / "results.csv", index=False)
        table.to_parquet(static / "results.parquet", index=False)


def setup(app):
    """Mend each page after all other extensions have added to it, its contents before the theme (500) reads them."""
    app.connect("html-page-context", _list, priority=100)
    app.connect("html-page-context", _mend, priority=900)
    app.connect("html-collect-pages", _search_of_a_book_built_again)  # after the pages, before the index is written
    app.connect("build-finished", _assets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
