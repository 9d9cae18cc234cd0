"""The page that re-runs one number says what the records say, and works with few or none."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from commands import call
from companion import evidence
from companion.records import repository_root, write_jsonl
from made_up import made_up_record, value_of
from papers.shin2023 import study
from papers.upadhyay2023 import study as vision

pytest.importorskip("IPython")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book/one_number.md").read_text(encoding="utf-8")
CELLS = re.findall(r"^```\{code-cell\} ipython3\n---\n.*?\n---\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def eeg_record(spec, make_record):
    """A record that predicts three of four imagined and two of four executed movements."""
    result = {
        "metrics": {"mi_accuracy": 0.75, "me_accuracy": 0.5}, "labels": {"mi": "0101", "me": "0101"},
        "predicted": {"mi": "0100", "me": "0110"},
        "data": {"fingerprint": "f" * 64, "recordings": {"mi": [4, 8, 12], "me": [3, 7, 11]}},
        "sparsity": {"whole": 0.2}, "weights": 100,
    }  # fmt: skip
    return make_record(spec, result)


@pytest.fixture
def shown(monkeypatch, repository):
    """(records) -> what the cells show where these are the committed records of a study; nothing is run."""

    def nothing(study, profile, specs):
        return evidence.Evidence(study.NAME, "this machine", profile, (), 0)

    def show(committed):
        if committed:
            folder = repository_root() / "results" / committed[0].spec.study / committed[0].spec.profile
            folder.mkdir(parents=True)
            write_jsonl(folder / "table1.jsonl", committed)
        names, out = {}, []
        for cell in CELLS:
            *body, last = ast.parse(cell).body
            exec(compile(ast.Module(body, []), "page", "exec"), names)
            out.append(eval(compile(ast.Expression(last.value), "page", "eval"), names).data)
        return "\n".join(out)

    monkeypatch.setattr(evidence, "local_evidence", nothing)
    return show


def eeg_cell(profile="small"):
    return study.specs(profile, "left-right", (study.PROPOSED,), sparsities=(study.PUBLISHED_SPARSITY,))


def test_the_cell_and_its_trials_are_those_of_the_records(shown, make_record):
    made = [eeg_record(s, make_record) for s in eeg_cell()]
    text = shown(made)
    assert f"from {len(made)} of {len(made)} runs" in text
    assert "| motor imagery | 0.645 | 0.750 ± 0.000 |" in text
    assert "| motor execution | 0.745 | 0.500 ± 0.000 |" in text
    named = re.search(r"show (\w{16}) --store none", text)[1]
    record = next(r for r in made if r.hash == named)
    assert f"| `{record.hash}` | {record.spec.params['subject']} | {record.spec.seed} | 3 of 4 | 2 of 4 |" in text
    assert f"`{record.digest}`" in text


@pytest.mark.parametrize("n", [0, 1])
def test_few_or_no_records_are_said_to_be_so_and_the_runs_are_named(shown, make_record, n):
    text = shown([eeg_record(spec, make_record) for spec in eeg_cell()[:n]])
    assert (f"from 1 of {len(eeg_cell())} runs" in text) == n
    assert ("| motor imagery | 0.645 | not run |" in text) == (not n)
    assert f"| digest of the result | {'`' if n else 'not run |'}" in text
    named = set(re.findall(r"--hash (\w{16})", text))
    assert len(named) == 2
    assert named <= {s.hash for s in [*study.all_specs("small"), *vision.all_specs("small")]}


def test_the_vision_row_is_that_of_its_records(shown, make_record):
    specs = vision.at_levels("full", (vision.ALL_NYU,), (vision.GOAL,))
    made = [made_up_record(s, make_record) for s in [*vision.blind_specs("full")[:1], *specs]]
    text = shown(made)
    mean = sum(value_of(s, "seg") for s in specs) / len(specs)
    assert f"from {len(specs)} of {len(specs)} runs of the profile `full`" in text
    assert re.search(rf"\| IoU ↑ \| 0\.\d+ \| {mean:.4f} ± ", text)
    assert all(f"| `{r.hash}` | {r.spec.seed} | 60 | cpu | `{r.digest[:16]}…` |" in text for r in made[1:])


def test_its_commands_choose_what_the_page_says(shown, make_record, capsys):
    text, chosen = shown([eeg_record(s, make_record) for s in eeg_cell()]).replace("\\\n", " "), []
    for words in re.findall(r"bin/sparsemtl (?:list|run) (.*)", text):
        status, lines, _ = call(capsys, "list", *shlex.split(words))
        assert status == 0
        chosen.append(frozenset(line.split()[0] for line in lines))
    cells = [eeg_cell(), eeg_cell("quick")]
    cells += [vision.at_levels(p, (vision.ALL_NYU,), (vision.GOAL,)) for p in ("small", "quick")]
    wanted = {frozenset(spec.hash for spec in cell) for cell in cells}
    assert {c for c in chosen if len(c) > 1} | {chosen[-1]} == wanted
    for words in re.findall(r"bin/sparsemtl (show .*)", text):
        ours = "one-number" not in words and shlex.split(words)[1] in {s.hash for s in eeg_cell()}
        assert call(capsys, *shlex.split(words, comments=True))[0] == (0 if ours else 2)
