"""Which records a page rests on, and that nothing damaged or failed gets onto it."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from companion import engine
from companion.__main__ import command_parser
from companion.choose import chosen as chosen_runs
from companion.evidence import Evidence, committed_evidence, committed_evidences, flat, local_evidence, provenance
from companion.records import write_jsonl
from companion.spec import RunSpec
from papers.shin2023 import study as shin2023
from papers.upadhyay2023 import study as upadhyay2023
from sparsemtl.errors import RecordError

STUDIES = (shin2023, upadhyay2023)


def test_no_records_simulated_ones_and_those_of_another_study_are_no_evidence(tmp_path, make_record):
    (tmp_path / "empty").mkdir()
    write_jsonl(tmp_path / "full/shin2023/quick/a.jsonl", map(make_record, shin2023.specs("quick")[:3]))
    simulated = make_record(RunSpec("upadhyay2023", "full", "rooms", "dense", 0))
    write_jsonl(tmp_path / "full/upadhyay2023/full/a.jsonl", [simulated])
    for folder in ("absent", "empty", "full"):
        found = committed_evidence(shin2023, tmp_path / folder)
        assert (found.origin, found.records, found.data) == ("committed", (), "not run")
        assert found.summary().runs.item() == f"0 of {found.expected}"


def test_a_summary_counts_what_the_numbers_rest_on(make_record, tiny_spec):
    records = tuple(make_record(tiny_spec(seed=s, subject=3), seconds=1800.0) for s in (1, 2))
    row = Evidence("shin2023", "committed", "small", records, 40).summary().iloc[0]
    assert (row.people, row.seeds, row.runs, row.hours) == (1, "1, 2", "2 of 40", "1.00")
    more = replace(records[0].spec, data="another"), tiny_spec(subject=4)  # a number is another person in other data
    both = Evidence("shin2023", "committed", "small", (*records, *map(make_record, more)), 40)
    assert both.summary().people.item() == "1 another, 2 simulated-eeg"


@pytest.mark.parametrize(("table", "order"), [("main", ["small", "full"]), ("all", ["full", "small"])])
def test_of_one_table_a_profile_with_holes_waits_behind_a_complete_one(tmp_path, make_record, table, order):
    specs = {p: [replace(s, profile=p) for s in shin2023.specs("quick")[:4]] for p in ("small", "full")}
    tables = {"main": lambda profile: specs[profile][:3], "more": lambda profile: specs[profile][3:]}
    study = SimpleNamespace(NAME="shin2023", all_specs=specs.get, TABLES=tables, MAIN=None)
    for profile, count in (("small", 3), ("full", 2)):
        write_jsonl(tmp_path / f"shin2023/{profile}/a.jsonl", map(make_record, specs[profile][:count]))
    assert [e.profile for e in committed_evidences(study, tmp_path, table)] == order
    write_jsonl(tmp_path / "shin2023/full/b.jsonl", map(make_record, specs["full"][2:]))
    assert committed_evidence(study, tmp_path, "main").profile == "full"
    more = committed_evidence(study, tmp_path, "more")
    assert (more.profile, more.expected, more.options) == ("full", 1, "--table more")
    assert [r.hash for r in more.records] == [specs["full"][3].hash]


def test_all_runs_make_one_flat_table(make_record, tiny_spec, tmp_path):
    result = {"metrics": {"mi_accuracy": 0.5}, "sparsity": {"whole": 0.4}, "history": [1, 2]}
    table = flat([make_record(tiny_spec(seed=s), result) for s in (0, 1)])
    assert sorted(table[["seed", "metrics.mi_accuracy"]].values.tolist()) == [[0, 0.5], [1, 0.5]]
    table.to_parquet(tmp_path / "all.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "all.parquet"), table)


def test_a_failed_run_is_raised_and_what_ran_here_says_so(monkeypatch, make_record):
    outcome = engine.Outcome({"name": make_record()}, ["or seed=0: S001R04.edf is truncated", "or seed=1: another"], 0)
    monkeypatch.setattr(engine, "execute", lambda *args: outcome)
    with pytest.raises(RecordError, match=r"2 runs failed; the first: or seed=0: S001R04\.edf"):
        local_evidence(shin2023, "quick", [])
    outcome.failures.clear()
    found, wanted = local_evidence(shin2023, "quick", []), ("this machine", "quick", (make_record(),), 1)
    assert (found.origin, found.profile, found.records, found.expected) == wanted


@pytest.mark.parametrize(("study", "table"), [(study, table) for study in STUDIES for table in study.TABLES])
def test_the_command_of_a_table_or_of_a_cell_names_exactly_its_runs(study, table, make_record):
    if not (records := tuple(map(make_record, study.TABLES[table]("small")))):
        pytest.skip("no run of this table")
    whole = Evidence(study.NAME, "committed", "small", records, len(records), f"--table {table}")
    last = records[-1].spec
    named = {name: last.params[name] for name in ("problem", "tasks") if name in last.params}
    cell = whole.only(method=last.method, seed=last.seed, **named)
    assert records[-1] in cell.records
    for found in (whole, cell):
        args = command_parser().parse_args(["list", study.NAME, "--profile", "small", *found.options.split()])
        assert {spec.hash for spec in chosen_runs(args)} == {record.hash for record in found.records}


@pytest.mark.parametrize("study", STUDIES)
def test_runs_with_values_set_otherwise_are_on_no_page(tmp_path, make_record, study):
    spec = study.all_specs("small")[0]
    other = replace(spec, params=dict(spec.params) | {"lr": 0.5})
    write_jsonl(tmp_path / f"{study.NAME}/small/runs.jsonl", [make_record(spec), make_record(other)])
    found = committed_evidence(study, tmp_path)
    assert ([r.hash for r in found.records], found.expected > 1) == ([spec.hash], True)


@pytest.mark.parametrize("study", STUDIES)
def test_runs_of_a_page_have_different_names(make_record, study):
    records = [make_record(s) for s in dict.fromkeys(study.all_specs("small")) if s.method != "blind"]
    names = provenance(records)
    assert not names.duplicated(["what", "data"]).any()
    assert set(names.index) == {r.hash for r in records}
