"""What a notebook shows: tables and figures, and under each of them the records behind it.

A fold-out names the runs, holds the table as CSV, and says how to make it again and how to cite it. Everything lies
in the page itself, so that it works without a server.
"""

import base64
import html
import re
from dataclasses import dataclass, field

import pandas as pd
from pandas.io.formats.style import Styler

from companion.benchmarks import Benchmark
from companion.evidence import NOT_RUN, Evidence, provenance
from companion.papers import part
from companion.records import set_hash

ANCHOR = "shown-"  # before a name: headings have ids of their own
BIN = ".venv/bin/"  # where `make` puts the commands that pages print
TITLE, AUTHOR = "Sparse Multitask Learning, Re-run", "The Sparse Multitask Learning, Re-run developers"

# What the columns of a statistic are called on a page
LABELS = {
    "n": "subjects", "mean": "mean difference", "low": "95 % from", "high": "to", "dz": "d_z", "p": "p (Wilcoxon)",
    "weakest": "weakest part",
}  # fmt: skip
NONE = "–"  # no such value; what was never run says so in words
LONG = 40  # characters, from which on a cell may break into lines
WORDS = re.compile(r"[A-Za-z]{3,}[,:]? .*[A-Za-z]{3,}")  # text, which may break on paper, where numbers must not
# A shape beside the word: no verdict is told by its colour alone
MARKS = {
    "reproduced": "✔", "not reproduced": "✘", "inconclusive": "◐", NOT_RUN: "○",
    "agrees": "=", "not told apart": "≈", "higher": "▲", "lower": "▼", "no spread": "?", "met": "☑", "missed": "☒",
}  # fmt: skip
MARKED = ("verdict", "against published", "outcome")  # columns that hold such words


def show_table(table, caption="", digits=3, name="table", missing=NONE):
    """The table for a page (pandas Styler): floats with `digits` decimals, `missing` where there is no number.

    The index becomes columns, so that each column has its heading in the last row of the head. name: makes the ids
    in the HTML, which must not change from build to build. missing: `NOT_RUN` where every cell could have a number.
    """
    table = pd.DataFrame({"": [NOT_RUN]}) if table.empty else _without_index(table).rename(columns=LABELS)
    for column in [name for name in MARKED if name in table]:
        table = table.assign(**{column: [f"{MARKS[word]} {word}" for word in table[column]]})
    shown = Styler(table, uuid=name, cell_ids=False).hide(axis="index").format(precision=digits, na_rep=missing)
    shown.set_table_attributes('class="results"')
    shown.set_td_classes(table.map(_class))
    if "page" in table:
        shown.format('<a href="{0}.html">{0}</a>', subset=["page"])
    return shown.set_caption(html.escape(caption)) if caption else shown


def _class(value):
    """Class of a cell: what may break into lines everywhere, what may on paper, what is one number or name."""
    if not isinstance(value, str):
        return ""
    return "long" if len(value) > LONG else "words" if WORDS.search(value) else ""


def _without_index(table):
    index, names = table.index.to_frame(index=False), [n or "" for n in table.index.names]
    if names == [""] and index.iloc[:, 0].equals(pd.Series(range(len(table)))):
        return table  # numbers of rows are no content
    index.columns = names
    if table.columns.nlevels > 1:
        index.columns = pd.MultiIndex.from_tuples([("",) * (table.columns.nlevels - 1) + (n,) for n in names])
    return pd.concat([index, table.reset_index(drop=True)], axis=1)


@dataclass
class Page:
    """The results page of one notebook.

    notebook: its name; `ANCHOR` with the name of a table or figure makes the anchor that a citation points to.
    parameters: of the notebook, other than the defaults, that shaped what it shows.
    """

    notebook: str
    parameters: dict = field(default_factory=dict)
    listed: dict = field(default_factory=dict, repr=False)  # record set -> anchor of the table that lists its runs

    def table(self, table, name, caption="", behind=(), digits=3, missing=NONE):
        """`show_table` with the evidence under it (IPython HTML).

        name: unique on the page. behind: `Evidence` or `Benchmark`, or several, that the table was made of.
        """
        shown = show_table(table, caption, digits, ANCHOR + name, missing).to_html()
        csv = _download(f"{self.notebook}-{name}.csv", "the table as CSV", table.to_csv())
        return _html(f'<div id="{ANCHOR}{name}">{shown}{self._fold(name, caption, behind, csv)}</div>')

    def claims(self, *evidences, **options):
        """The claims that this page is the evidence for, and what became of them. options: of the study's `claims`."""
        name = self.notebook.split("_")[0]
        report, study = (part(name, what) for what in ("tables", "study"))
        mine = [claim.id for claim in study.CLAIMS if claim.page == self.notebook]
        table = report.claims(evidences, ids=mine, **options)
        names = ["claim", "problem", "verdict", "effect", "low", "high", "weakest", "as published", "subjects"]
        table = table[[n for n in (*names, "seeds", "dz", "evidence") if n in table]]  # what counts is seen first
        return self.table(table.set_index("claim"), "claims", "The claims of this page", evidences)

    def finding(self, text, name, *evidences):
        """What a figure shows, in a sentence made of its records, and its evidence (IPython HTML)."""
        said = f'<p class="finding"><strong>What it shows:</strong> {html.escape(text)}</p>'
        return _html(f'<div id="{ANCHOR}{name}">{said}{self._fold(name, name, evidences)}</div>')

    def _fold(self, name, caption, evidences, *links):
        evidences = [evidences] if isinstance(evidences, Evidence | Benchmark) else list(evidences)
        parts = [f"<p>{' · '.join(links)}</p>"] if links else []
        for evidence in evidences:
            told = self._measured if isinstance(evidence, Benchmark) else self._told
            parts.append(told(name, caption, evidence))
        summary = f"<summary>Evidence: {_counted(evidences)}</summary>"
        return f'<details class="evidence">{summary}{"".join(parts)}</details>'

    def _measured(self, name, caption, benchmark):
        """Machine, command and citation of a benchmark record (HTML)."""
        e, key = benchmark.environment, benchmark.digest[:16]
        packages = ", ".join(f"{package} {version}" for package, version in e["packages"].items())
        machine = f"{e['device']}, {e['processor']}, {e['cores']} cores, {e['threads']} threads, Python {e['python']}"
        device = "" if benchmark.kind == "cpu" else " --device cuda"
        command = f"{BIN}python benchmarks/{e['script']}.py {e['arguments']}{device}"
        told = f"Benchmark {benchmark.name}, record <code>{key}</code>, {e['ended'][:10]}: {machine}; {packages}"
        cite = self._citation(name, caption, f"benchmark record {key}", e["ended"][:4], key)
        return f"<p>{told}</p><p>Make it again:</p>{_code(command)}<p>Cite it:</p>{_code(cite)}"

    def _told(self, name, caption, evidence):
        """Runs, commands and citation of one set of records (HTML)."""
        title, commands = html.escape(evidence.title), "\n".join(self._commands(evidence))
        if not evidence:
            return f"<p>{title}. To run it:</p>{_code(commands)}"
        key = set_hash(evidence.records)
        parts = [f"<p>{title}, {len(evidence.records)} runs, record set <code>{key}</code></p>"]
        if self.listed.setdefault(key, name) == name:
            runs = provenance(evidence.records)
            parts.append(f"<p>{_download(f'runs-{key}.csv', 'these runs as CSV', runs.to_csv())}</p>")
            inner = runs.reset_index().to_html(index=False, border=0, classes="results", float_format="{:.1f}".format)
            inner = re.sub(r">\s+<", "><", inner)
            parts.append(f"<details><summary>The runs</summary>{inner}</details>")
        else:
            parts.append(
                f'<p>The runs are listed under <a href="#{ANCHOR}{self.listed[key]}">an earlier table</a>.</p>'
            )
        year = max(r.run["ended"] for r in evidence.records)[:4]
        cite = self._citation(name, caption, f"{len(evidence.records)} run records, set {key}", year, key)
        parts.append(f"<p>Make it again, here or on another machine:</p>{_code(commands)}")
        parts.append(f"<p>Cite it:</p>{_code(cite)}")
        return "".join(parts)

    def _commands(self, evidence):
        words = evidence.options.split()
        device = next(filter(None, (r.device_option for r in evidence.records)), "")
        parameters = {"profile": evidence.profile, **self.parameters} | ({"device": "cuda"} if device else {})
        given = " ".join(f"-p {k} {v}" for k, v in parameters.items())
        if not self.parameters:  # the command line knows the grid with the notebook's defaults
            run = [f"{BIN}sparsemtl run", evidence.study, "--profile", evidence.profile, *words]
            yield " ".join(run) + device
        yield f"{BIN}papermill notebooks/{self.notebook}.ipynb out.ipynb {given}"

    def _citation(self, name, caption, note, year, key):
        title = _tex(f"{TITLE}: {self.notebook}, {caption.split('. ')[0] or name}")
        return "\n".join([
            f"@misc{{sparsemtl-{self.notebook.replace('_', '-')}-{name}-{key[:8]},",
            f"  author = {{{{{AUTHOR}}}}},",
            f"  title  = {{{title}}},",
            f"  year   = {{{year}}},",
            f"  note   = {{{_tex(f'notebooks/{self.notebook}.html#{ANCHOR}{name}; {note}')}}},",
            "}",
        ])  # fmt: skip


def _tex(text):
    """Text in which TeX reads no command."""
    return re.sub(r"([#$%&_])", r"\\\1", text)


def _counted(evidences):
    """What a fold-out holds, in words."""
    counts = {"benchmark record": sum(isinstance(e, Benchmark) for e in evidences)}
    runs = [e for e in evidences if not isinstance(e, Benchmark)]
    counts |= {"run": sum(len(e.records) for e in runs)} if runs or not counts["benchmark record"] else {}
    return ", ".join(f"{n} {word}{'s' * (n != 1)}" for word, n in counts.items() if n or word == "run")


def _download(file, text, content):
    """A link that holds the file it offers."""
    data = base64.b64encode(content.encode()).decode()
    return f'<a download="{file}" href="data:text/csv;charset=utf-8;base64,{data}">{text}</a>'


def _code(text):
    """Text as the theme shows code, which gives it a button to copy it."""
    return f'<div class="highlight"><pre>{html.escape(text)}</pre></div>'


def _html(text):
    from IPython.display import HTML

    return HTML(text)
