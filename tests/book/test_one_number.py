"""The page that re-runs one number says what the records say, and says so where there are none."""

import ast
import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest
from companion import evidence
from companion.records import read_jsonl, write_jsonl
from companion.spec import PROFILES
from papers.shin2023 import study as study
from papers.shin2023 import tables as report
from papers.upadhyay2023 import study as vision

pytest.importorskip("IPython")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book/one_number.md").read_text(encoding="utf-8")
CELLS = re.findall(r"^```\{code-cell\} ipython3\n---\n.*?\n---\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def shown(cells, monkeypatch, checkout):
    """What the cells show (list of text), executed in a checkout; no run is made."""
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(
        evidence, "local_evidence", lambda s, profile, specs: evidence.Evidence(s.NAME, "this machine", profile, (), 0)
    )
    names, out = {}, []
    for cell in cells:
        *body, last = ast.parse(cell).body
        if not isinstance(last, ast.Expr):
            body, last = [*body, last], None
        exec(compile(ast.Module(body, []), "page", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "page", "eval"), names)
            out.append(value.to_html() if hasattr(value, "to_html") else value.data)
    return out


@pytest.fixture
def checkout(tmp_path):
    """A copy of the committed records."""
    shutil.copytree(ROOT / "results", tmp_path / "results")
    (tmp_path / "_toc.yml").touch()
    return tmp_path


def records_of_the_cell(checkout):
    """Those of the largest profile whose table is complete: another that is still growing is on no page."""
    records = [r for path in sorted((checkout / "results/shin2023").glob("*/*.jsonl")) for r in read_jsonl(path)]
    hashes = {r.hash for r in records}
    shown = next(p for p in reversed(PROFILES) if {s.hash for s in study.table1_specs(p)} <= hashes)
    return [
        r
        for r in records
        if (r.spec.method, r.spec.params["sparsity"]) == (study.PROPOSED, study.PUBLISHED_SPARSITY)
        and (r.spec.params["problem"], r.spec.params["labels"]) == ("four-class", "true")
        and (r.spec.params["backbone"], r.spec.profile) == ("eegnet", shown)
    ]


def test_the_page_has_cells_and_shows_the_cell_of_table_1_with_its_records(checkout, monkeypatch):
    text = shown(CELLS, monkeypatch, checkout)
    records = records_of_the_cell(checkout)
    row = report.published_beside_ours(records, "four-class").loc[("motor imagery", "accuracy")]
    assert f"| motor imagery | {100 * row.published:.1f} % | {100 * row.ours:.1f} ± {100 * row.sd:.1f} % |" in text[0]
    assert records
    assert all(r.hash in text[1] for r in records)
    named = re.search(r"show (\w{16})", text[2])[1]
    record = next(r for r in records if r.hash == named)
    assert f"| digest of the result | `{record.digest}` |" in "".join(text)
    assert record.result["data"]["fingerprint"] in "".join(text)


def test_a_changed_record_changes_the_page(checkout, monkeypatch):
    before = shown(CELLS, monkeypatch, checkout)
    changed = records_of_the_cell(checkout)[0].hash
    for path in (checkout / "results/shin2023").glob("*/*.jsonl"):
        records = read_jsonl(path)
        for record in records:
            if record.hash == changed:
                record.result["metrics"]["mi_accuracy"] = 0.0
                write_jsonl(path, records)
    after = shown(CELLS, monkeypatch, checkout)
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_without_records_it_says_so_and_still_names_the_runs(checkout, monkeypatch):
    shutil.rmtree(checkout / "results")
    text = shown(CELLS, monkeypatch, checkout)
    assert "| motor imagery | 64.5 % | not run |" in text[0]
    assert re.search(r"Committed: not run \(0 of \d+ runs\)", text[1])
    assert "| digest of the result | not run |" in "".join(text)
    named = re.search(r"show (\w{16})", text[2])[1]
    assert named in {s.hash for s in study.specs("small", "four-class")}


def test_its_commands_are_known_to_the_command_line_and_choose_what_the_page_says(checkout, monkeypatch, capsys):
    from companion.__main__ import main

    text = "\n".join(shown(CELLS, monkeypatch, checkout)).replace("\\\n", " ")
    listed = re.findall(r"-m sparsemtl list (.*)", text)
    assert len(listed) == 2
    hashes = []
    for words in listed:
        assert main(["list", *shlex.split(words)]) == 0
        hashes.append({line.split()[0] for line in capsys.readouterr().out.splitlines()})
    assert {r.hash for r in records_of_the_cell(checkout)} == hashes[0]
    runs = re.findall(r"-m sparsemtl run (.*) --store one-number", text)
    assert len(runs) == 4
    for words in runs:
        assert main(["list", *shlex.split(words)]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= len(runs)
    shows = [shlex.split(words, comments=True) for words in re.findall(r"-m sparsemtl (show .*)", text)]
    assert len(shows) == 5
    for words in shows:  # the store of one's own runs is empty here
        ours = "one-number" not in words
        assert main(words) == (0 if ours else 2)
        said = capsys.readouterr()
        assert words[1] in said.out if ours else f"no record starts with '{words[1]}' in one-number or none" in said.err
    (quick,) = [words for words in runs if "quick" in words and "shin2023" in words]
    main(["list", *shlex.split(quick)])
    cell = study.specs("quick", methods=(study.PROPOSED,), sparsities=(study.PUBLISHED_SPARSITY,))
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {s.hash for s in cell}


def test_the_vision_cell_is_that_of_its_records(checkout, monkeypatch, make_record):
    spec = importlib.util.spec_from_file_location("made_up", ROOT / "tests/made_up.py")
    made_up = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made_up)
    records = [made_up.made_up_record(s, make_record) for s in vision.all_specs("full")]
    (checkout / "results/upadhyay2023/full").mkdir(parents=True)
    write_jsonl(checkout / "results/upadhyay2023/full/made-up.jsonl", records)
    text = "\n".join(shown(CELLS, monkeypatch, checkout))
    cell = vision.specs("full", (vision.ALL_NYU,), (vision.SPARSE,))
    mine = [r for r in records if r.spec in cell]
    mean = sum(r.result["metrics"]["seg_iou"] for r in mine) / len(mine)
    assert f"committed (profile full, {len(mine)} of {len(mine)} runs)" in text
    assert re.search(rf"\| IoU ↑ \| 0\.\d+ ± 0\.\d+ \| {mean:.4f} ± ", text)
    assert "| groups zero, % | 69.72 | 50.0 ± 0.0 |" in text
    assert all(f"| `{r.hash}` | {r.spec.seed} | 60 | cpu | `{r.digest[:16]}…` |" in text for r in mine)
