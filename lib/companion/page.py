"""What a results page shows: a takeaway, a figure, one table, and at its foot one panel with everything behind them.

How a notebook uses it (each call is the last line of its cell; cells carry the tag `remove-input`):

    page = Page("shin2023_table1", title="Shin, Table 1")
    page.takeaway(tables.takeaway(evidence))                 # one sentence, computed; **bold** is bold
    page.figure(fig, "methods", "What the figure shows.", evidence)         # matplotlib: inline SVG, dark mode included
    page.chart(altair_chart, "explore", "What to look for.", evidence)      # interactive, with its still twin
    page.table(df, "table1", "Accuracy by method.", evidence, labels=NAMES, runs=runs, published=df2)
    page.claims(evidence, ...)                               # the paper's claims that name this notebook as their page
    page.foot()                                              # runs, code, provenance; once, in the last cell

`table`: at most seven columns, the index among them. Index and columns hold keys; `labels` maps a key to what is
shown. `runs(row, column)` gives the `Evidence` behind one cell (`evidence.only(method=row, problem="four-class")`
also knows its command); without it a cell opens all runs of the table. `published` has the index and columns of the
table, NaN where nothing is known. A cell opens its value, the published value, its runs, the command that makes them
again and a BibTeX entry: `book/_static/cells.js`, from data that `book/_ext/pages.py` puts into files beside the page.
"""

import base64
import html
import json
import math
import re
from dataclasses import dataclass, field
from importlib.metadata import version

import pandas as pd

from companion import claims as rules
from companion.benchmarks import Benchmark
from companion.evidence import Evidence, provenance
from companion.records import set_hash
from companion.statistics import NOT_RUN
from companion.style import still, svg

ANCHOR = "shown-"  # before a name: headings have ids of their own
BIN = ".venv/bin/"  # where `make` puts the commands that pages print
TITLE, AUTHOR = "Sparse Multitask Learning, Re-run", "The Sparse Multitask Learning, Re-run developers"
VERSION = version("sparsemtl")
NONE = "–"  # no such value; what was never run says so in words
LONG = 40  # characters, from which on a cell may break into lines
# A shape beside the word: no verdict is known by its colour alone
MARKS = {
    rules.REPRODUCED: "✔", rules.SMALLER: "◑", rules.CONTRADICTED: "✘", rules.NO_EFFECT: "∅", rules.UNDECIDED: "◌",
    rules.NOT_TESTED: "⊘", NOT_RUN: "○",
    "agrees": "=", "not told apart": "≈", "higher": "▲", "lower": "▼", "no spread": "?", "met": "☑", "missed": "☒",
}  # fmt: skip


def marked(word):
    """A verdict with its shape: "✔ reproduced"."""
    return f"{MARKS[word]} {word}"


def show_table(table, caption="", digits=3, name="table", missing=NONE, labels=None, attributes=None):
    """A table without evidence (IPython HTML); arguments as of `Page.table`.

    attributes: function (row, column) -> attributes of the cell in HTML (str), by which a click finds its runs.
    """
    return _html(_table(table, caption, digits, name, missing, labels or {}, attributes or (lambda row, column: "")))


def _table(table, caption, digits, name, missing, labels, attributes):
    if table.empty:
        table = pd.DataFrame({"": [NOT_RUN]})
    numbered = table.index.names == [None] and table.index.equals(pd.RangeIndex(len(table)))  # is no content
    names = [] if numbered else [labels.get(n, n) or "" for n in table.index.names]
    levels, columns = table.columns.nlevels, [c if isinstance(c, tuple) else (c,) for c in table.columns]
    heads = [*[("",) * (levels - 1) + (n,) for n in names], *[tuple(labels.get(k, k) for k in c) for c in columns]]
    parts = [f'<table class="results" id="{ANCHOR}{name}-table">']
    parts += [f"<caption>{html.escape(caption)}</caption>"] if caption else []
    parts.append("<thead>")
    for level in range(levels):
        cells, last = [], level == levels - 1
        for head in heads:
            same = not last and cells and cells[-1][0] == head[: level + 1] and head[level]
            cells[-1:] = [[head[: level + 1], cells[-1][1] + 1]] if same else [*cells[-1:], [head[: level + 1], 1]]
        spans = [(_text(h[-1], digits, ""), f' colspan="{n}"' if n > 1 else "") for h, n in cells]
        parts.append("<tr>" + "".join(f'<th scope="col"{span}>{text}</th>' for text, span in spans) + "</tr>")
    parts.append("</thead><tbody>")
    for row, values in zip(table.index, table.itertuples(index=False, name=None), strict=True):
        keys = () if numbered else row if isinstance(row, tuple) else (row,)
        cells = [f"<th{_kind(labels.get(k, k))} scope='row'>{_text(labels.get(k, k), digits, '')}</th>" for k in keys]
        for column, head, value in zip(table.columns, heads[len(names) :], values, strict=True):
            label = " ".join(str(h) for h in head if h)
            value = labels.get(value, value) if isinstance(value, str) else value
            given = f'{_kind(value)} data-label="{html.escape(label)}"{attributes(row, column)}'
            cells.append(f"<td{given}>{_text(value, digits, missing)}</td>")
        parts.append(f"<tr>{''.join(cells)}</tr>")
    return "".join([*parts, "</tbody></table>"])


def _text(value, digits, missing):
    """What a cell shows; a page's name is a link to it, a verdict has its shape."""
    if isinstance(value, float):
        return f"{value:.{digits}f}" if math.isfinite(value) else missing
    text = MARKS[value] + " " + value if isinstance(value, str) and value in MARKS else str(value)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text))


def _kind(value):
    """Class of a cell: text that may break into lines."""
    return ' class="long"' if isinstance(value, str) and len(value) > LONG else ""


@dataclass
class Page:
    """The results page of one notebook; see the module for its use.

    Parameters
    ----------
    notebook : str
        Its name; `ANCHOR` with the name of a table or figure is the anchor that a citation points to.
    title : str
        Name of the page in a citation.
    parameters : dict
        Of the notebook, as far as they differ from its defaults.
    """

    notebook: str
    title: str = ""
    parameters: dict = field(default_factory=dict)
    runs: dict = field(default_factory=dict, repr=False)  # hash -> record
    sets: dict = field(default_factory=dict, repr=False)  # record set -> its place, runs and command
    shown: dict = field(default_factory=dict, repr=False)  # name -> caption
    behind: list = field(default_factory=list, repr=False)  # every evidence, in order

    def takeaway(self, text):
        """The finding of the page in one sentence or two, numbers first; **bold** is bold."""
        return _html(f'<p class="takeaway">{_text(text, 0, "")}</p>')

    def finding(self, text, name, *behind):
        """One more sentence with its records."""
        return _html(f'<p class="finding" id="{ANCHOR}{name}">{_text(text, 0, "")}</p>{self._line(name, text, behind)}')

    def figure(self, fig, name, caption, behind=(), alt=""):
        """A matplotlib figure as SVG at the width it was made for; caption: text. Closes the figure."""
        return self._figure(svg(fig, name, alt or caption), name, caption, behind)

    def chart(self, chart, name, caption, behind=(), alt=""):
        """An Altair chart: interactive in the book, a still picture in print and without scripts."""
        spec = json.dumps(chart.to_dict(), separators=(",", ":")).replace("</", "<\\/")
        live = f'<div class="chart"><script type="application/json" class="vega">{spec}</script></div>'
        return self._figure(
            f'{live}<div class="still">{still(chart, name, alt or caption)}</div>', name, caption, behind
        )

    def _figure(self, picture, name, caption, behind):
        told = f"<figcaption>{_text(caption, 0, '')}</figcaption>"
        return _html(
            f'<figure class="results" id="{ANCHOR}{name}">{picture}{told}</figure>{self._line(name, caption, behind)}'
        )

    def table(self, table, name, caption="", behind=(), digits=3, missing=NONE, labels=None, runs=None, published=None):
        """A table and under it one line: CSV, runs, cite.

        Parameters
        ----------
        table : pandas.DataFrame
            Index and columns hold keys; cells numbers or text.
        name : str
            Unique on the page: makes the anchor.
        caption : str
        behind : Evidence, Benchmark or list of them
            What the table was made of.
        digits : int
            Decimals of a float.
        missing : str
            Shown for NaN; `NOT_RUN` if every cell could have a number.
        labels : dict
            Key, or cell text, to what is shown.
        runs : callable
            (row, column) -> Evidence behind that cell.
        published : pandas.DataFrame
            Published values, with the table's index and columns.
        """

        def attributes(row, column):
            found = runs(row, column) if runs else None
            given = f' data-set="{self._set(found)}"' if found else ""
            known = published.at[row, column] if published is not None else math.nan
            return given + (f' data-published="{_text(known, digits, "")}"' if pd.notna(known) else "")

        shown = _table(table, caption, digits, name, missing, labels or {}, attributes)
        csv = _download(f"{self.notebook}-{name}.csv", "CSV", table.to_csv())
        line = self._line(name, caption, behind, csv)
        return _html(
            f'<div class="shown" id="{ANCHOR}{name}"><div class="scroll" tabindex="0">{shown}</div>{line}</div>'
        )

    def claims(self, *evidences):
        """The claims that name this notebook as their page, judged. evidences: the largest profile first."""
        name = self.notebook.split("_")[0]
        judged = [j for j in rules.judge_paper(name, evidences) if j.claim.page == self.notebook]
        rows = [
            {
                "claim": j.claim.sentence, "published": j.claim.shown(j.claim.published), "ours": j.interval(),
                "units": f"{j.n} {j.claim.units}", "verdict": j.verdict,
                "limited by": j.effects.not_tested or j.effects.limits,
            }
            for j in judged
        ]  # fmt: skip
        caption = "The claims of this page: effects in points of accuracy or percent, with 95 % intervals over units."
        return self.table(pd.DataFrame(rows), "claims", caption, evidences)

    def foot(self, *more):
        """The one panel with the data and runs, the commands and the citation of the page. more: other evidence."""
        self._line("page", self.title, more)
        evidences = [e for e in self.behind if isinstance(e, Evidence)]
        rows = pd.concat([e.summary() for e in evidences]).drop_duplicates() if evidences else ()
        parts = [_table(rows, "", 2, "runs", NONE, {}, lambda row, column: "")] if len(rows) else []
        machines = dict.fromkeys(_machine(b) for b in self.behind if isinstance(b, Benchmark))
        parts += [f"<p>{html.escape(machine)}</p>" for machine in machines]
        commands = list(
            dict.fromkeys(_command(e) for e in self.behind if not self.parameters or isinstance(e, Benchmark))
        )
        given = {"profile": evidences[0].profile, **self.parameters} if evidences else self.parameters
        options = "".join(f" -p {k} {v}" for k, v in given.items())
        commands.append(f"{BIN}papermill notebooks/{self.notebook}.ipynb out.ipynb{options}")
        records = [r for r in self.runs.values() if not isinstance(r, Benchmark)]
        runs = provenance(records).to_dict("index") if records else {}
        runs = {name: runs.get(name) or {"what": _machine(r)} for name, r in self.runs.items()}
        csv = pd.DataFrame.from_dict(runs, orient="index").rename_axis("run").to_csv()
        links = [_download(f"{self.notebook}-runs.csv", f"all {len(self.runs)} runs as CSV", csv)] if self.runs else []
        links.append(
            f'<a class="code" href="../_sources/notebooks/{self.notebook}.ipynb" download>code of this page</a>'
        )
        note = f"{len(records)} run records, set {set_hash(records)}" if records else NOT_RUN
        cite = re.sub("@(KEY|ANCHOR|WHAT)", "", self._template()).replace("@NOTE", note)
        parts += [
            f"<p>{' · '.join(links)}</p>",
            "<p>Make it again:</p>",
            _code("\n".join(commands)),
            "<p>Cite it:</p>",
            _code(cite),
        ]
        data = {"runs": runs, "sets": list(self.sets.values()), "shown": self.shown, "bibtex": self._template()}
        text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
        store = f'<script type="application/json" class="runs" data-file="{self.notebook}.runs.js">{text}</script>'
        summary = "<summary>Data, runs and code of this page</summary>"
        return _html(f'<details class="evidence" id="behind">{summary}{"".join(parts)}</details>{store}')

    def _line(self, name, caption, behind, *links):
        """The line under a table or figure; keeps what is behind it for the foot."""
        behind = [behind] if isinstance(behind, Evidence | Benchmark) else list(behind)
        self.behind += behind
        self.shown[name] = caption
        place = self._set(*behind) if behind else ""
        links = [
            *links,
            *[f'<a href="#behind" class="opens" data-open="{what}">{what}</a>' for what in ("runs", "cite")],
        ]
        return f'<p class="links" data-name="{name}" data-set="{place}">{" · ".join(links)}</p>'

    def _set(self, *behind):
        """Place of a set of records among those of the page."""
        records = [r for e in behind for r in (e.records if isinstance(e, Evidence) else ())]
        measured = [b for b in behind if isinstance(b, Benchmark)]
        key = set_hash(records) if records or not measured else measured[0].digest[:16]
        commands = "\n".join(dict.fromkeys(map(_command, behind)))
        if (key, commands) not in self.sets:
            self.runs |= {r.hash: r for r in records} | {b.digest[:16]: b for b in measured}
            place = {name: i for i, name in enumerate(self.runs)}
            hashes = [place[name] for name in (*(r.hash for r in records), *(b.digest[:16] for b in measured))]
            year = max([*(r.run["ended"] for r in records), *(b.environment["ended"] for b in measured)], default="")[
                :4
            ]
            self.sets[key, commands] = {"key": key, "runs": hashes, "command": commands, "year": year}
        return list(self.sets).index((key, commands))

    def _template(self):
        """BibTeX in which scripts and `foot` put what is cited: @WHAT, @ANCHOR, @NOTE."""
        title = _tex(f"{TITLE}: {self.title or self.notebook}")
        return "\n".join([
            f"@misc{{sparsemtl-{self.notebook.replace('_', '-')}@KEY,", f"  author = {{{{{AUTHOR}}}}},",
            f"  title  = {{{title}@WHAT}},", f"  year   = {{{_year(self.sets)}}},", f"  note   = {{Version {VERSION}, "
            + _tex(f"notebooks/{self.notebook}.html@ANCHOR; ") + "@NOTE}}", "}",
        ])  # fmt: skip


def _year(sets):
    return max((s["year"] for s in sets.values()), default="") or "2026"


def _command(behind):
    """The command that makes an evidence or a benchmark again."""
    if isinstance(behind, Benchmark):
        e = behind.environment
        return f"{BIN}python benchmarks/{e['script']}.py {e['arguments']}" + " --device cuda" * (behind.kind != "cpu")
    device = next(filter(None, (r.device_option for r in behind.records)), "")
    return " ".join(f"{BIN}sparsemtl run {behind.study} --profile {behind.profile} {behind.options}".split()) + device


def _machine(benchmark):
    e = benchmark.environment
    packages = ", ".join(f"{package} {number}" for package, number in e["packages"].items())
    machine = f"{e['device']}, {e['processor']}, {e['cores']} cores, {e['threads']} threads, Python {e['python']}"
    return f"Benchmark {benchmark.name}, {e['ended'][:10]}: {machine}; {packages}"


def _tex(text):
    """Text in which TeX reads no command."""
    return re.sub(r"([#$%&_])", r"\\\1", text)


def _download(file, text, content):
    """A link that holds the file it offers; the book puts it beside the page."""
    data = base64.b64encode(content.encode()).decode()
    return f'<a download="{file}" href="data:text/csv;charset=utf-8;base64,{data}">{text}</a>'


def _code(text):
    """Text as the theme shows code, which gives it a button to copy it."""
    return f'<div class="highlight"><pre>{html.escape(text)}</pre></div>'


def _html(text):
    from IPython.display import HTML

    return HTML(text)
