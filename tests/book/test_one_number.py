"""The page that re-runs one number says what the records say, and works with few or none."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from companion import evidence, records
from companion.records import write_jsonl
from papers.shin2023 import study
from papers.upadhyay2023 import study as vision

pytest.importorskip("IPython")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book/one_number.md").read_text(encoding="utf-8")
CELLS = re.findall(r"^```\{code-cell\} ipython3\n---\n.*?\n---\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
RIGHT = {"mi": 3, "me": 2}  # of four trials


def eeg_record(spec, make_record, right=RIGHT):
    """A record whose first trials of four are predicted correctly."""
    result = {
        "metrics": {f"{t}_accuracy": n / 4 for t, n in right.items()}, "labels": dict.fromkeys(right, "0101"),
        "predicted": {t: "".join("01"[(i % 2) ^ (i >= n)] for i in range(4)) for t, n in right.items()},
        "data": {"fingerprint": "f" * 64, "recordings": {"mi": [4, 8, 12], "me": [3, 7, 11]}},
        "sparsity": {"whole": 0.2}, "weights": 100,
    }  # fmt: skip
    return make_record(spec, result)


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """() -> what the cells show, in a checkout whose committed records are in the folder `results`; nothing is run."""
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setattr(
        evidence, "local_evidence", lambda s, profile, specs: evidence.Evidence(s.NAME, "this machine", profile, (), 0)
    )

    def run():
        names, out = {}, []
        for cell in CELLS:
            *body, last = ast.parse(cell).body
            exec(compile(ast.Module(body, []), "page", "exec"), names)
            out.append(eval(compile(ast.Expression(last.value), "page", "eval"), names).data)
        return "\n".join(out)

    return run


@pytest.fixture
def commit(tmp_path):
    """(records) -> they are the committed ones of their study."""

    def write(some):
        folder = tmp_path / "results" / some[0].spec.study / some[0].spec.profile
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / "table1.jsonl", some)

    return write


def eeg_cell(profile="small"):
    return study.specs(profile, "left-right", (study.PROPOSED,), sparsities=(study.PUBLISHED_SPARSITY,))


def test_the_cell_and_its_trials_are_those_of_the_records(shown, commit, make_record):
    made = [eeg_record(s, make_record) for s in eeg_cell()]
    commit(made)
    text = shown()
    assert f"from {len(made)} of {len(made)} runs" in text
    assert "| motor imagery | 0.645 | 0.750 ± 0.000 |" in text
    assert "| motor execution | 0.745 | 0.500 ± 0.000 |" in text
    named = re.search(r"show (\w{16}) --store none", text)[1]
    record = next(r for r in made if r.hash == named)
    assert f"| `{record.hash}` | {record.spec.params['subject']} | {record.spec.seed} | 3 of 4 | 2 of 4 |" in text
    assert f"`{record.digest}`" in text


def test_a_part_of_the_records_is_shown_as_a_part(shown, commit, make_record):
    specs = eeg_cell()
    commit([eeg_record(specs[0], make_record)])
    text = shown()
    assert f"from 1 of {len(specs)} runs" in text
    assert "| digest of the result | `" in text
    assert "| not run | not run |" in text


def test_without_records_it_says_so_and_still_names_the_runs(shown):
    text = shown()
    assert "| motor imagery | 0.645 | not run |" in text
    assert "| digest of the result | not run |" in text
    named = set(re.findall(r"--hash (\w{16})", text))
    assert len(named) == 2
    assert named <= {s.hash for s in [*study.all_specs("small"), *vision.all_specs("small")]}


def test_the_vision_row_is_that_of_its_records(shown, commit, make_record):
    from made_up import made_up_record, value_of

    specs = vision.at_levels("full", (vision.ALL_NYU,), (vision.GOAL,))
    made = [made_up_record(s, make_record) for s in [*vision.blind_specs("full")[:1], *specs]]
    commit(made)
    text = shown()
    mean = sum(value_of(s, "seg") for s in specs) / len(specs)
    assert f"from {len(specs)} of {len(specs)} runs of the profile `full`" in text
    assert re.search(rf"\| IoU ↑ \| 0\.\d+ \| {mean:.4f} ± ", text)
    assert all(f"| `{r.hash}` | {r.spec.seed} | 60 | cpu | `{r.digest[:16]}…` |" in text for r in made[1:])


def test_its_commands_choose_what_the_page_says(shown, commit, make_record, capsys):
    from companion.__main__ import main

    commit([eeg_record(s, make_record) for s in eeg_cell()])
    text = shown().replace("\\\n", " ")
    chosen = []
    for words in re.findall(r"bin/sparsemtl (?:list|run) (.*)", text):
        assert main(["list", *shlex.split(words)]) == 0
        chosen.append({line.split()[0] for line in capsys.readouterr().out.splitlines()})
    cells = [eeg_cell(), eeg_cell("quick")]
    cells += [vision.at_levels(p, (vision.ALL_NYU,), (vision.GOAL,)) for p in ("small", "quick")]
    assert {frozenset(c) for c in chosen if len(c) > 1} | {frozenset(c) for c in chosen[-1:]} == {
        frozenset(s.hash for s in cell) for cell in cells
    }
    for words in re.findall(r"bin/sparsemtl (show .*)", text):
        ours = "one-number" not in words and shlex.split(words)[1] in {s.hash for s in eeg_cell()}
        assert main(shlex.split(words, comments=True)) == (0 if ours else 2)
        capsys.readouterr()
