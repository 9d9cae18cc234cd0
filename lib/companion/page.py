"""What a results page shows: a takeaway, figures, tables, and at its foot one panel with everything behind them.

Each call on a `Page` is the last line of a cell of its notebook; `foot`, once, is the last of all. A cell of a table
opens its value, the published value, its runs, the command that makes them again and a BibTeX entry:
`book/_static/cells.js`, from data that `book/_ext/pages.py` puts into files beside the page.
"""

import base64
import html
import json
import math
import re
from dataclasses import dataclass, field
from importlib.metadata import version

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from companion import claims as rules
from companion.evidence import BIN, Evidence, provenance
from companion.records import RunRecord, set_hash
from companion.statistics import NOT_RUN
from companion.style import LOOK, VERDICT_STYLE, still, svg

ANCHOR = "shown-"  # before a name: headings have ids of their own
TITLE, AUTHOR = "Sparse Multitask Learning, Re-run", "The Sparse Multitask Learning, Re-run developers"
VERSION, YEAR = version("sparsemtl"), "2026"
NONE = "–"  # no such value; what was never run says so in words
LONG = 40  # characters, from which on a cell may break into lines
MARKS = {word: shape for word, (_, _, shape) in VERDICT_STYLE.items()} | {"met": "☑", "missed": "☒"}


def marked(word):
    """A verdict with its shape: "✔ reproduced"."""
    return f"{MARKS[word]} {word}"


def show_table(table, caption="", name="table"):
    """A table without evidence (IPython HTML)."""
    return HTML(_table(table, name, caption))


def show_figure(fig, name, caption, alt=""):
    """A matplotlib figure without evidence (IPython HTML); closes the figure."""
    return HTML(_framed(svg(fig, name, alt or caption), name, caption))


def _framed(picture, name, caption):
    caption = f"<figcaption>{_text(caption)}</figcaption>"
    return f'<figure class="results" id="{ANCHOR}{name}" tabindex="0">{picture}{caption}</figure>'


def _table(table, name, caption="", digits=None, labels=None, attributes=lambda row, column: ""):
    digits, labels = digits or {}, labels or {}
    if table.empty:
        table = pd.DataFrame({"": [NOT_RUN]})
    names = [n for n in table.index.names if n]  # an index without a name is a plain number and no content
    heads = [labels.get(n, n) for n in (*names, *table.columns)]
    caption = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    head = "".join(f'<th scope="col">{_text(h)}</th>' for h in heads)
    rows = []
    for row, values in zip(table.index, table.itertuples(index=False, name=None), strict=True):
        keys = [labels.get(k, k) for k in (row if isinstance(row, tuple) else (row,))] if names else []
        cells = [f'<th{_kind(key)} scope="row">{_text(key)}</th>' for key in keys]
        for column, value in zip(table.columns, values, strict=True):
            value = labels.get(value, value) if isinstance(value, str) else value
            label = html.escape(str(labels.get(column, column)))
            given = f'{_kind(value)} data-label="{label}"{attributes(row, column)}'
            cells.append(f"<td{given}>{_text(value, digits.get(column, 3))}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    start = f'<table class="results" id="{ANCHOR}{name}-table">{caption}<thead><tr>{head}</tr></thead>'
    return f"{start}<tbody>{''.join(rows)}</tbody></table>"


def _text(value, digits=3):
    """What a cell shows; a verdict has its shape."""
    if isinstance(value, float):
        return f"{value:.{digits}f}" if math.isfinite(value) else NONE
    text = MARKS[value] + " " + value if isinstance(value, str) and value in MARKS else str(value)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text))


def _kind(value):
    """Class of a cell: text that may break into lines."""
    return ' class="long"' if isinstance(value, str) and len(value) > LONG else ""


@dataclass
class Page:
    """The results page of one notebook; see the module for its use."""

    notebook: str  # its name
    title: str = ""  # in a citation
    parameters: dict = field(default_factory=dict)  # of the notebook, if they differ from its defaults
    runs: dict = field(default_factory=dict, repr=False)  # hash -> record
    sets: dict = field(default_factory=dict, repr=False)  # record set -> its key, runs and command
    shown: dict = field(default_factory=dict, repr=False)  # name -> caption
    behind: list = field(default_factory=list, repr=False)  # every evidence, in order

    def takeaway(self, text):
        """The finding of the page in one sentence or two, numbers first; **bold** is bold."""
        return HTML(f'<p class="takeaway">{_text(text)}</p>')

    def finding(self, text, name, *behind):
        """One more sentence with its records."""
        return HTML(f'<p class="finding" id="{ANCHOR}{name}">{_text(text)}</p>{self._line(name, text, behind)}')

    def figure(self, fig, name, caption, behind=(), alt=""):
        """A matplotlib figure as SVG at the width it was made for; caption: text. Closes the figure."""
        return HTML(show_figure(fig, name, caption, alt).data + self._line(name, caption, behind))

    def chart(self, chart, name, caption, behind=(), alt=""):
        """An Altair chart: interactive in the book, a still picture in print; a figure stays one."""
        if isinstance(chart, Figure):  # that nothing was run
            return self.figure(chart, name, caption, behind, alt)
        spec = chart.to_dict() | {"config": LOOK}
        live = f'<div class="chart"><script type="application/json" class="vega">{_json(spec)}</script></div>'
        twin = f'<div class="still">{still(spec, name, alt or caption)}</div>'
        return HTML(_framed(live + twin, name, caption) + self._line(name, caption, behind))

    def table(self, table, name, caption="", behind=(), digits=3, labels=None, runs=None, published=None):
        """A table and under it one line: CSV, runs, cite.

        table: DataFrame of numbers or text with at most seven columns, the index among them. name: anchor. behind:
        Evidence, Benchmark or a list of them. digits: of all numbers, or {column: digits}, three in others. labels: key
        or text of a cell -> what is shown. runs: (row, column) -> Evidence behind that cell; without it a cell opens
        all runs. published: values, with index and columns of table.
        """
        digits = digits if isinstance(digits, dict) else dict.fromkeys(table.columns, digits)

        def attributes(row, column):
            known = published.at[row, column] if published is not None else math.nan
            given = f' data-published="{_text(known, digits.get(column, 3))}"' if pd.notna(known) else ""
            return (self.opens(runs(row, column)) if runs else "") + given

        shown = _table(table, name, caption, digits, labels, attributes)
        return self.put(shown, name, caption, behind, _download(f"{self.notebook}-{name}.csv", "CSV", table.to_csv()))

    def put(self, table, name, caption, behind, *links):
        """A table in HTML, and under it its line; a cell without runs of its own (`opens`) opens those behind all."""
        line = self._line(name, caption, behind, *links)
        box = f'<div class="scroll" tabindex="0">{table}</div>'
        return HTML(f'<div class="shown" id="{ANCHOR}{name}">{box}{line}</div>')

    def opens(self, *behind):
        """The attribute of a cell in HTML by which a click finds what is behind it."""
        return f' data-set="{self._set(*behind)}"'

    def claims(self, *evidences):
        """The claims that name this notebook as their page, judged. evidences: the largest profile first."""
        paper = self.notebook.split("_")[0]
        heads, rows = ("claim", "published", "ours", "units", "verdict", "limited by"), []
        for claim in (c for c in rules.study_of(paper).CLAIMS if c.page == self.notebook):
            j = rules.judge_best(paper, claim, evidences)
            ours = j.interval(), f"{j.n} {claim.units}", j.verdict, j.effects.not_tested or j.effects.limits
            rows.append((claim.sentence, claim.shown(claim.published), *ours))
        caption = "The claims of this page: effects in points of accuracy or percent, with 95 % intervals over units."
        return self.table(pd.DataFrame(rows, columns=heads), "claims", caption, evidences)

    def foot(self):
        """The one panel with the data and runs, the commands and the citation of the page."""
        evidences = [e for e in self.behind if isinstance(e, Evidence)]
        machines = dict.fromkeys(b.machine for b in self.behind if not isinstance(b, Evidence))
        records = [r for r in self.runs.values() if isinstance(r, RunRecord)]
        known = provenance(records).to_dict("index") if records else {}
        runs = {name: known.get(name) or {"what": r.machine} for name, r in self.runs.items()}
        given = {"profile": evidences[0].profile, **self.parameters} if evidences else self.parameters
        options = "".join(f" -p {k} {v}" for k, v in given.items())
        commands = [] if self.parameters else [*dict.fromkeys(b.command for b in self.behind)]
        commands.append(f"{BIN}papermill notebooks/{self.notebook}.ipynb out.ipynb{options}")
        links = [f'<a class="code" href="../_sources/notebooks/{self.notebook}.ipynb" download>code of this page</a>']
        if runs:
            csv = pd.DataFrame.from_dict(runs, orient="index").rename_axis("run").to_csv()
            links.append(_download(f"{self.notebook}-runs.csv", f"all {len(runs)} runs as CSV", csv))
        template = self._template()
        cited = re.sub("@(KEY|ANCHOR|WHAT)", "", template).replace("@NOTE", _rests_on(self.runs))
        parts = [_table(pd.concat([e.summary() for e in evidences]).drop_duplicates(), "runs")] if evidences else []
        parts += [f"<p>{html.escape(machine)}</p>" for machine in machines]
        parts.append(f"<p>{' · '.join(links)}</p>")
        for what, text in (("Make it again:", "\n".join(commands)), ("Cite it:", cited)):
            parts.append(f'<p>{what}</p><div class="highlight"><pre>{html.escape(text)}</pre></div>')  # can be copied
        data = {"runs": runs, "sets": list(self.sets.values()), "shown": self.shown, "bibtex": template}
        file = f'data-file="{self.notebook}.runs.js"'
        return HTML(
            f'<details class="evidence" id="behind"><summary>Data, runs and code of this page</summary>{"".join(parts)}'
            f'</details><script type="application/json" class="runs" {file}>{_json(data)}</script>'
        )

    def _line(self, name, caption, behind, *links):
        """The line under a table or figure; keeps what is behind it for the foot."""
        behind = list(behind) if isinstance(behind, list | tuple) else [behind]
        self.behind += behind
        self.shown[name] = caption
        place = self._set(*behind) if behind else ""
        opens = [f'<a href="#behind" class="opens" data-open="{what}">{what}</a>' for what in ("runs", "cite")]
        return f'<p class="links" data-name="{name}" data-set="{place}">{" · ".join([*links, *opens])}</p>'

    def _set(self, *behind):
        """Place of a set of records among those of the page."""
        records = [r for e in behind if isinstance(e, Evidence) for r in e.records]
        measured = {b.digest[:16]: b for b in behind if not isinstance(b, Evidence)}
        key = set_hash(records) if records or not measured else next(iter(measured))
        commands = "\n".join(dict.fromkeys(b.command for b in behind))
        if (key, commands) not in self.sets:
            mine = {r.hash: r for r in records} | measured
            self.runs |= mine
            place = {name: i for i, name in enumerate(self.runs)}
            found = {"key": key, "runs": [place[name] for name in mine], "command": commands, "note": _rests_on(mine)}
            self.sets[key, commands] = found
        return list(self.sets).index((key, commands))

    def _template(self):
        """BibTeX in which scripts and `foot` put what is cited: @WHAT, @ANCHOR, @NOTE."""
        title, place = (  # in which TeX reads no command
            re.sub(r"([#$%&_])", r"\\\1", text)
            for text in (f"{TITLE}: {self.title or self.notebook}", f"notebooks/{self.notebook}.html@ANCHOR")
        )
        ended = [(r.run if isinstance(r, RunRecord) else r.environment)["ended"] for r in self.runs.values()]
        return (
            f"@misc{{sparsemtl-{self.notebook.replace('_', '-')}@KEY,\n  author = {{{{{AUTHOR}}}}},\n"
            f"  title  = {{{title}@WHAT}},\n  year   = {{{max(ended, default=YEAR)[:4]}}},\n"
            f"  note   = {{Version {VERSION}, {place}; @NOTE}}\n}}"
        )


def _rests_on(runs):
    """What a citation rests on, {hash: record}: runs with the name of their set, benchmarks with their digests."""
    records = [r for r in runs.values() if isinstance(r, RunRecord)]
    short = [name[:8] for name, r in runs.items() if not isinstance(r, RunRecord)]  # search index: no whole ones
    parts = [f"{_counted(records, 'run')}, set {set_hash(records)}"] if records else []
    parts += [f"{_counted(short, 'benchmark')}, digest {', '.join(short)}"] if short else []
    return "; ".join(parts) or NOT_RUN


def _counted(records, kind):
    return f"{len(records)} {kind} record{'' if len(records) == 1 else 's'}"


def _download(file, text, content):
    """A link that holds the file it offers; the book puts it beside the page."""
    data = base64.b64encode(content.encode()).decode()
    return f'<a download="{file}" href="data:text/csv;charset=utf-8;base64,{data}">{text}</a>'


def _json(value):
    """JSON that may stand in a script of a page."""
    return json.dumps(value, separators=(",", ":")).replace("</", "<\\/")
