"""The command line reads well, and a mistake is one line with a way out and exit status 2."""

import json
import os
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
from companion import engine, records
from companion.__main__ import main
from companion.records import RunRecord, Store, read_jsonl, set_hash, write_jsonl
from companion.spec import RunSpec
from papers.shin2023 import study as shin2023
from sparsemtl.errors import DataError

ONE = ("--subject", "1", "--seed", "0", "--method", "or", "--sparsity", "0.4")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    monkeypatch.delenv("SPARSEMTL_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def runner(monkeypatch):
    """Runs give their seed and sparsity; `runner.fail` is raised instead where it is set."""
    state = SimpleNamespace(fail=None)

    def run(spec, root=None, device="cpu"):
        if state.fail and spec.params["sparsity"] == 0.8:
            raise state.fail
        return {"seed": spec.seed, "asked": spec.params["sparsity"]}

    monkeypatch.setitem(sys.modules, "a_runner", SimpleNamespace(run=run))
    monkeypatch.setattr(engine, "_runner", lambda study: sys.modules["a_runner"])
    return state


def chosen(spec):
    """Whether `ONE` asks for this spec."""
    return (spec.method, spec.seed, spec.params["subject"], spec.params["sparsity"]) == ("or", 0, 1, 0.4)


def call(capsys, *words):
    """(exit status, lines on stdout, lines on stderr without the progress bar)."""
    status = main(list(words))
    said = capsys.readouterr()
    return status, said.out.splitlines(), [s for s in said.err.splitlines() if s and not re.search(r"\d/\d+ \[", s)]


COMMANDS = ("list", "run", "verify", "show", "diff", "export", "import", "queue", "crate", "data")


@pytest.mark.parametrize(
    "words",
    [(), *((name,) for name in COMMANDS)],
)
def test_help_names_every_argument_in_words(capsys, words):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert text.startswith("usage: sparsemtl")
    wanted = {
        (): COMMANDS,
        ("run",): ("shin2023", "--profile", "quick, small, full", "--workers", "--device", "--store", "SPARSEMTL_RUNS"),
        ("list",): ("shin2023", "--param", "--results", "none for nothing"),
        ("verify",): ("--draw", "at random", "small"),
        ("show",): ("hash", "--json", "whole record"),
        ("diff",): ("FILE:HASH", "--store"),
        ("export",): ("file", "--table", "of these seeds only"),
        ("import",): ("file", "--store"),
        ("queue",): ("--out", "print it"),
        ("crate",): ("--results",),
        ("data",): ("--download", "--data-dir", "SPARSEMTL_DATA"),
    }[words]
    for word in wanted:
        assert word in text


@pytest.mark.parametrize(("option", "first", "second"), [
    ("--seed", "0", "1"), ("--subject", "1", "2"), ("--method", "or", "imp"), ("--table", "table1", "backbones"),
])  # fmt: skip
def test_an_option_that_is_given_twice_counts_twice(capsys, option, first, second):
    together = call(capsys, "list", "shin2023", option, first, second)[1]
    assert together == call(capsys, "list", "shin2023", option, first, option, second)[1]
    assert len(together) > len(call(capsys, "list", "shin2023", option, first)[1])


@pytest.mark.parametrize(("words", "said"), [
    (("--hash", ""), "no run of this grid starts with ''"), (("--set", "subject=true"), "subject is True"),
])  # fmt: skip
def test_what_chooses_nothing_is_not_taken_for_everything(capsys, words, said):
    status, out, (line,) = call(capsys, "list", "shin2023", *words)
    assert (status, out) == (2, [])
    assert said in line


@pytest.mark.parametrize("depth", [700, 50_000])  # what Python's JSON reader takes, and what it does not
def test_values_nested_beyond_all_use_are_one_line(capsys, depth):
    value = '{"a":' * depth + "0" + "}" * depth
    try:
        status = main(["list", "shin2023", "--set", f"trunk={value}"])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert capsys.readouterr().err.splitlines()[-1].count("nested too deeply") == 1


def test_exports_into_one_file_wait_for_each_other(make_record):
    """Each would write the file without the other's records."""
    specs = [s for s in shin2023.all_specs("quick")][:40]
    for name, part in (("a", specs[:20]), ("b", specs[20:])):
        for spec in part:
            Store(name).write(make_record(spec))
    words = [sys.executable, "-m", "companion", "export", "shin2023", "both.jsonl", "--store"]
    for done in [subprocess.Popen([*words, name], stderr=subprocess.DEVNULL) for name in ("a", "b")]:
        assert done.wait() == 0
    assert {r.spec for r in read_jsonl("both.jsonl")} == set(specs)


def test_an_export_says_which_results_it_replaces(capsys, make_record):
    spec = next(s for s in shin2023.all_specs("quick"))
    write_jsonl("a.jsonl", [make_record(spec, {"value": 0.5}, device="NVIDIA H200")])
    Store().write(make_record(spec, {"value": 0.25}))
    _, _, err = call(capsys, "export", "shin2023", "a.jsonl")
    assert "left out the one of" in err[0]
    assert "on NVIDIA H200" in err[0]
    assert err[1] == "1 records written to a.jsonl"


def test_the_module_runs_as_a_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "companion", "list", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("sparsemtl: unknown study 'nothing': choose one of shin2023")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_error():
    first = subprocess.run(
        f"'{sys.executable}' -m companion list shin2023 --profile full | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True,
    )  # fmt: skip
    assert first.stderr == ""
    assert first.stdout.splitlines()[1:] == ["0"]


def test_list_run_show_tell_of_the_same_run(capsys, runner):
    status, out, err = call(capsys, "list", "shin2023", *ONE)
    name = out[0].split()[0]
    n = len(out)
    assert (status, n) == (0, len([s for s in shin2023.all_specs("quick") if chosen(s)]))
    assert all(line.split()[1] == "missing" for line in out)
    assert len({line.split(maxsplit=2)[2] for line in out}) == n  # each is described, not only named
    assert all("sparsity=0.4" in line for line in out)
    assert err == [f"{n} runs, 0 with a record in results or runs"]

    status, out, err = call(capsys, "run", "shin2023", *ONE)
    assert (status, out, err) == (0, [], [f"{n} runs executed, {n} records in all"])
    assert call(capsys, "run", "shin2023", *ONE)[2] == [f"0 runs executed, {n} records in all"]
    _, out, err = call(capsys, "list", "shin2023", *ONE)
    assert {line.split()[1] for line in out} == {"done"}
    assert err == [f"{n} runs, {n} with a record in results or runs, record set {set_hash(Store().all()[0])}"]

    status, out, err = call(capsys, "show", name, "--json")
    record = json.loads("\n".join(out))
    assert (status, err) == (0, [])
    assert record["hash"] == name
    assert record["result"] == {"seed": 0, "asked": 0.4}


def test_show_finds_committed_records_too(capsys, make_record):
    record = make_record()
    write_jsonl("results/shin2023/quick/a.jsonl", [record])
    status, out, _ = call(capsys, "show", record.hash[:6], "--json")
    assert status == 0
    assert json.loads("\n".join(out)) == record.to_dict()


def test_show_tells_where_a_number_comes_from(capsys, make_record):
    result = {"metrics": {"mi_accuracy": 0.5625}, "data": {"fingerprint": "f" * 64}}
    write_jsonl("results/shin2023/quick/a.jsonl", [record := make_record(result=result)])
    _, out, _ = call(capsys, "show", record.hash)
    for line in (
        "  mi_accuracy: 0.5625", f"  fingerprint: {'f' * 64}", f"digest of the result: {record.digest}",
        "  seed: 0", "  device: cpu", "  code: 0123456789abcdef", "  torch: 2.11.0",
    ):  # fmt: skip
        assert line in out


@pytest.mark.parametrize("study", ["shin2023", "upadhyay2023", "other2024"])
def test_show_tells_a_record_that_other_code_made(capsys, make_record, study):
    """Its method or study is none of ours; switches are known by name, but not of this method."""
    record = make_record(RunSpec(study, "small", "nyuv2", "novel", 0, {"weight_decay": "coupled"}))
    Store().write(record)
    status, out, err = call(capsys, "show", record.hash)
    assert (status, err) == (0, [])
    assert f"run it again: not with this code, which does not know the method novel of {study}" in out


def test_show_tells_two_results_of_a_run_apart(capsys, make_record, tiny_spec):
    theirs, ours = (make_record(tiny_spec(), {"metrics": {"mi_accuracy": v}}) for v in (0.5, 0.25))
    write_jsonl("results/shin2023/quick/a.jsonl", [theirs])
    Store().write(theirs)
    _, out, err = call(capsys, "show", theirs.hash)
    assert err == []
    assert [line for line in out if "found in" in line] == ["found in: results and runs"]
    Store().write(ours)
    _, out, err = call(capsys, "show", theirs.hash)
    assert err == [f"sparsemtl: run {theirs.hash} has 2 results: `sparsemtl diff` says why"]
    told = [line.strip() for line in out if "found in" in line or "mi_accuracy" in line]
    assert told == ["found in: results", "mi_accuracy: 0.5", "found in: runs", "mi_accuracy: 0.25"]
    _, out, err = call(capsys, "show", theirs.hash, "--results", "none")
    assert err == []
    assert "  mi_accuracy: 0.25" in out


@pytest.mark.parametrize("given", [("epochs=3",), ("tmax=3.0", "labels=shuffled"), ("backbone=shallow", "sfreq=160.0")])
def test_the_command_that_show_prints_makes_the_run_again(capsys, runner, given):
    call(capsys, "run", "shin2023", *ONE, "--table", "table1", "--param", "labels=true", "--set", *given)
    (record,) = Store("runs").all()[0]
    _, out, _ = call(capsys, "show", record.hash)
    (command,) = [line.removeprefix("run it again: ") for line in out if line.startswith("run it again")]
    words = shlex.split(command)[1:]
    assert call(capsys, *words)[2] == ["0 runs executed, 1 records in all"]
    assert call(capsys, *words, "--store", "other")[2] == ["1 runs executed, 1 records in all"]
    assert [r.hash for r in Store("other").all()[0]] == [record.hash]


@pytest.mark.parametrize(("device", "end"), [("cpu", ""), ("NVIDIA H200", " --device cuda")])
def test_the_command_that_show_prints_names_the_device(capsys, make_record, device, end):
    spec = next(s for s in shin2023.all_specs("quick") if chosen(s))
    Store().write(make_record(spec, device=device))
    _, out, _ = call(capsys, "show", spec.hash)
    assert f"run it again: sparsemtl run shin2023 --profile quick --hash {spec.hash}{end}" in out


def test_a_backbone_or_a_rate_brings_its_own_trunk(capsys, runner):
    call(capsys, "run", "shin2023", *ONE, "--table", "table1", "--param", "labels=true", "--set", "backbone=shallow")
    (record,) = Store("runs").all()[0]
    assert record.spec.params["trunk"] == shin2023.trunk_options("shallow", record.spec.params["sfreq"])
    own = [*ONE, "--table", "table1", "--param", "labels=true", "--set", "sfreq=160.0", 'trunk={"kernel": 9}']
    call(capsys, "run", "shin2023", *own, "--store", "other")
    assert dict(Store("other").all()[0][0].spec.params["trunk"]) == {"kernel": 9}


def test_list_tells_committed_and_damaged_records_apart(capsys, make_record):
    specs = [s for s in shin2023.all_specs("quick") if chosen(s)]
    write_jsonl("results/shin2023/quick/a.jsonl", [make_record(specs[0])])
    Store().write(make_record(specs[1]))
    Store().path(specs[1]).write_text("{")
    out = call(capsys, "list", "shin2023", *ONE)[1]
    assert {line.split()[0]: line.split()[1] for line in out} == {
        s.hash: ("committed", "damaged")[i] if i < 2 else "missing" for i, s in enumerate(specs)
    }


def test_a_run_is_chosen_by_its_hash(capsys):
    spec = shin2023.all_specs("quick")[3]
    out = call(capsys, "list", "shin2023", "--hash", spec.hash[:10])[1]
    assert [line.split()[0] for line in out] == [spec.hash]
    status, _, err = call(capsys, "list", "shin2023", "--hash", spec.hash, "zz")
    assert (status, err) == (2, ["sparsemtl: no run of this grid starts with 'zz': `list` prints the hashes"])


@pytest.mark.parametrize("labels", ["true", "shuffled"])
def test_a_name_that_looks_like_json_is_a_name(capsys, labels):
    out = call(capsys, "list", "shin2023", "--param", f"labels={labels}")[1]
    assert len(out) == sum(s.params["labels"] == labels for s in shin2023.all_specs("quick"))


def test_the_filters_choose_what_they_name(capsys):
    every = call(capsys, "list", "shin2023", "--profile", "small")[1]
    assert len(every) == len(shin2023.all_specs("small"))
    words = ("--method", "grasp", "rigl", "--subject", "3", "42", "--seed", "2", "--sparsity", "0.2", "0.8")
    words = (*words, "--table", "table1")
    out = call(capsys, "list", "shin2023", "--profile", "small", *words, "--problem", "four-class")[1]
    specs = shin2023.specs("small", "four-class", ("grasp", "rigl"), (3, 42), (2,), (0.2, 0.8))
    assert sorted(line.split()[0] for line in out) == sorted(s.hash for s in specs)


def test_a_failed_run_is_named_and_the_others_are_kept(capsys, runner):
    runner.fail = DataError("S001R04.edf is truncated: fetch it again")
    words = ("run", "shin2023", "--subject", "1", "--seed", "0", "--method", "grasp")
    status, out, err = call(capsys, *words)
    assert (status, out) == (2, [])
    assert err[0] == "2 runs executed, 2 records in all"
    assert len(err) == 2
    assert err[1].startswith("sparsemtl: failed: shin2023 quick grasp seed=0")
    assert err[1].endswith("S001R04.edf is truncated: fetch it again")
    runner.fail = None
    assert call(capsys, *words)[::2] == (0, ["1 runs executed, 3 records in all"])


def test_ctrl_c_is_one_line_and_status_130(capsys, runner):
    runner.fail = KeyboardInterrupt()
    status, out, err = call(capsys, "run", "shin2023", "--subject", "1", "--seed", "0", "--method", "grasp")
    assert (status, out) == (130, [])
    assert err == ["sparsemtl: stopped; finished records are kept, the same command resumes"]
    assert len(Store("runs").all()[0]) == 2


def test_export_and_import_carry_records_from_store_to_store(capsys, runner):
    call(capsys, "run", "shin2023", *ONE)
    n = len(Store("runs").all()[0])
    assert call(capsys, "export", "shin2023", "a.jsonl")[::2] == (0, [f"{n} records written to a.jsonl"])
    assert call(capsys, "import", "a.jsonl", "--store", "other")[::2] == (0, [f"{n} of {n} records taken into other"])
    assert call(capsys, "import", "a.jsonl", "--store", "other")[::2] == (0, [f"0 of {n} records taken into other"])
    call(capsys, "export", "shin2023", "b.jsonl", "--store", "other", "--profile", "quick", "--problem", "left-right")
    with open("a.jsonl", "rb") as a, open("b.jsonl", "rb") as b:
        assert a.read() == b.read()


def test_import_tells_of_conflicts_and_replaces_what_is_damaged(capsys, make_record, tiny_spec):
    ours, theirs = make_record(tiny_spec(), {"value": 1.0}), make_record(tiny_spec(), {"value": 2.0}, device="H100")
    store = Store("runs")
    store.write(ours)
    write_jsonl("a.jsonl", [theirs])
    status, _, err = call(capsys, "import", "a.jsonl")
    assert status == 0
    assert "kept the one of" in err[0]
    assert "H100" in err[0]
    assert err[1] == "0 of 1 records taken into runs"
    assert store.read(ours.spec) == ours

    store.path(ours.spec).write_text("{")
    assert call(capsys, "import", "a.jsonl")[2][-1] == "1 of 1 records taken into runs"
    assert store.read(ours.spec) == theirs


def test_an_export_keeps_the_other_records_of_its_file(capsys, make_record, tiny_spec):
    old, again, other = (make_record(tiny_spec(seed=s), {"value": v}) for s, v in ((0, 1.0), (0, 2.0), (1, 3.0)))
    write_jsonl("a.jsonl", [old, other])
    Store("runs").write(again)
    left_out, written = call(capsys, "export", "shin2023", "a.jsonl")[2]
    assert f"run {old.hash}" in left_out
    assert written == "2 records written to a.jsonl, 1 of them were there"
    assert {r.digest for r in read_jsonl("a.jsonl")} == {again.digest, other.digest}


def test_an_export_does_not_put_a_run_into_two_files_of_a_profile(capsys, make_record, tiny_spec):
    records = [make_record(tiny_spec(seed=s), {"value": 1.0 * s}) for s in range(3)]
    folder = "results/shin2023/quick"
    write_jsonl(f"{folder}/seed0.jsonl", records[:1])
    for record in records:
        Store("runs").write(record)
    status, _, err = call(capsys, "export", "shin2023", f"{folder}/runs.jsonl")
    assert (status, len(err)) == (2, 1)
    assert f"{folder}/seed0.jsonl has run {records[0].hash} (1 of these): export to that file" in err[0]
    assert not os.path.exists(f"{folder}/runs.jsonl")
    assert call(capsys, "export", "shin2023", f"{folder}/seed0.jsonl", "--seed", "0")[0] == 0
    assert call(capsys, "export", "shin2023", f"{folder}/runs.jsonl", "--seed", "1", "2")[0] == 0
    assert {r.hash for r in read_jsonl(f"{folder}/runs.jsonl")} == {r.hash for r in records[1:]}
    write_jsonl(f"{folder}/twice.jsonl", records[1:2])
    status, _, err = call(capsys, "show", records[1].hash)
    assert (status, len(err)) == (2, 1)
    assert "runs.jsonl and in" in err[0]
    assert f"run {records[1].hash} is in" in err[0]
    os.unlink(f"{folder}/twice.jsonl")
    with open(f"{folder}/seed0.jsonl", "r+") as file:
        file.write(file.read())
    assert "seed0.jsonl and in" in call(capsys, "show", records[0].hash)[2][0]


def test_an_export_takes_the_runs_of_a_table(capsys, make_record):
    one, other = shin2023.TABLES["table1"]("quick")[0], shin2023.TABLES["backbones"]("quick")[0]
    for spec in (one, other):
        Store("runs").write(make_record(spec))
    assert call(capsys, "export", "shin2023", "a.jsonl", "--table", "backbones")[0] == 0
    assert [r.hash for r in read_jsonl("a.jsonl")] == [other.hash]
    assert "unknown table 'x'" in call(capsys, "export", "shin2023", "a.jsonl", "--table", "x")[2][0]


def test_an_export_goes_through_a_link_and_not_onto_a_folder(capsys, make_record):
    Store("runs").write(make_record())
    os.mkdir("there")
    os.symlink("there/a.jsonl", "link.jsonl")
    assert call(capsys, "export", "shin2023", "link.jsonl")[0] == 0
    assert len(read_jsonl("there/a.jsonl")) == 1
    assert os.path.islink("link.jsonl")
    status, _, err = call(capsys, "export", "shin2023", ".")
    assert (status, err) == (2, ["sparsemtl: . is a folder: name a file in it"])


def test_an_import_takes_the_lines_that_are_records(capsys, make_record, tiny_spec):
    write_jsonl("a.jsonl", [make_record(tiny_spec(seed=s)) for s in range(3)])
    with open("a.jsonl", "r+") as file:
        text = file.read()
        file.truncate(len(text) - 30)
    status, _, err = call(capsys, "import", "a.jsonl")
    assert status == 2
    assert "left out: a.jsonl line 3: damaged" in err[0]
    assert err[-1] == "2 of 2 records taken into runs"
    assert len(Store("runs").all()[0]) == 2


def test_values_that_are_set_are_checked_before_anything_runs(capsys, runner):
    for value, said in {
        "epochs=0": "epochs is 0", "lr=abc": "lr is 'abc'", "batch=1.5": "batch is 1.5", "trunk=5": "trunk is 5",
        "backbone=resnet": "backbone is 'resnet'", "problem=six": "problem is 'six'", "version=7": "version is 7",
    }.items():  # fmt: skip
        status, _, err = call(capsys, "run", "shin2023", *ONE, "--set", value)
        assert status == 2
        assert err[0].startswith(f"sparsemtl: {said}: it must be")
    status, _, err = call(capsys, "run", "upadhyay2023", "--table", "fig4", "--set", "tasks=seg+touch")
    assert (status, err[0].split(":")[1]) == (2, " unknown task 'touch'")
    assert Store("runs").all() == ([], [])


@pytest.mark.parametrize(
    "words",
    [("--sparsity", "0.6"), ("--param", "epochs=50"), ("--subject", "9"), ("--problem", "six"), ("--param", "lr=1e-9")],
)
def test_a_value_outside_the_grid_names_the_option_that_takes_it(capsys, words):
    status, out, (line,) = call(capsys, "run", "shin2023", *words)
    assert (status, out) == (2, [])
    asked = words[1] if words[0] == "--param" else f"{words[0][2:]}={words[1]}"
    assert f"--set {asked.replace('1e-9', '1e-09')} " in line


def test_a_filter_that_drops_what_another_asked_for_is_refused_by_name(capsys):
    """--sparsity 0.4 would leave no dense network, as that runs at 0 alone."""
    for words in (("--method", "or", "dense-multi", "--sparsity", "0.4"), ("--seed", "0", "1", "--table", "backbones")):
        status, out, (line,) = call(capsys, "list", "shin2023", *words)
        assert (status, out) == (2, [])
        assert re.search("method dense-multi has no run|unknown seed 1", line), line
    both = call(capsys, "list", "shin2023", "--method", "or", "dense-multi", "--sparsity", "0.4", "0.0")[1]
    assert {word for line in both for word in line.split() if word in ("or", "dense-multi")} == {"or", "dense-multi"}


@pytest.mark.parametrize("words", [("--table", "table1"), ("--table", "table1", "--param", "labels=true")])
def test_show_knows_the_record_set_that_a_page_cites(capsys, make_record, words):
    records = [make_record(s) for s in shin2023.all_specs("quick")[::3]]
    write_jsonl("results/shin2023/quick/a.jsonl", records)
    _, listed, err = call(capsys, "list", "shin2023", *words)
    name = err[0].split()[-1]
    status, out, _ = call(capsys, "show", name)
    assert status == 0
    assert out[0].startswith(f"record set {name}")
    with_record = {line.split()[0] for line in listed if line.split()[1] == "committed"}
    assert {line.split()[0] for line in out[1:] if line.split()[1] == "committed"} == with_record


def test_show_reads_records_without_torch(make_record):
    write_jsonl("results/shin2023/quick/a.jsonl", [record := make_record()])
    code = "import sys; from companion.__main__ import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    words = [sys.executable, "-c", code, "show", record.hash, "--results", "results"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert record.digest in done.stdout


def test_the_working_folder_does_not_decide_which_records_count(capsys, make_record, monkeypatch, tmp_path):
    Store("runs").write(make_record())
    write_jsonl("results/shin2023/quick/a.jsonl", [other := make_record(shin2023.all_specs("quick")[0])])
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    for name in (make_record().hash, other.hash):
        assert call(capsys, "show", name)[0] == 0
    monkeypatch.setenv("SPARSEMTL_RUNS", "runs")  # relative to the repository
    assert call(capsys, "show", make_record().hash)[0] == 0
    (tmp_path / "results").rename(tmp_path / "elsewhere")
    assert "there is no folder" in call(capsys, "list", "shin2023")[2][0]


def test_a_store_that_cannot_be_read_is_one_line(capsys):
    with open("file", "w") as file:
        file.write("no folder")
    os.symlink("nowhere", "dangling")
    os.symlink("loop", "loop")
    for place in ("file", "loop", "loop/runs"):
        for words in (("export", "shin2023", "a.jsonl"), ("queue", "--results", "none"), ("show", "abc")):
            status, _, err = call(capsys, *words, "--store", place)
            assert status == 2
            assert len(err) == 1
    assert call(capsys, "queue", "--results", "none", "--store", "dangling")[0] in (0, 2)


def test_diff_says_why_two_records_differ(capsys, make_record, tiny_spec):
    result = {"metrics": {"a": 0.5, "b": [1, 2]}, "data": {"fingerprint": "f" * 64}}
    other = {"metrics": {"a": 0.5, "b": [1, 3]}, "data": {"fingerprint": "f" * 64}}
    ours = make_record(tiny_spec(), result)
    Store("runs").write(ours)
    Store("theirs").write(make_record(tiny_spec(), other, device="NVIDIA H200", packages={"torch": "2.10.0"}))
    name = ours.hash[:8]
    status, out, _ = call(capsys, "diff", f"runs:{name}", f"theirs:{name}")
    assert status == 0
    assert out[0] == "the results differ in metrics (1 values), because of:"
    assert any("device is cpu and NVIDIA H200" in line for line in out)
    assert any("torch is 2.11.0 and 2.10.0" in line for line in out)
    assert not any("spec" in line or "data:" in line for line in out)
    Store("runs").write(again := make_record(tiny_spec(seed=1), result))
    out = call(capsys, "diff", ours.hash, again.hash)[1]
    assert out[0].startswith("the results are the same to the bit")
    assert "spec: seed is 0 and 1" in out
    assert "no record with these digits" in call(capsys, "diff", ours.hash, "ffff")[2][0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "shin2023", "--table", "truth"), "shin2023 has no run in truth at the profile quick"),
        (("list", "shin2023", "--param", "trunk=5"), "unknown trunk 5: this grid has"),
        (("list", "shin2023", "--set", "sfreq=abc"), "sfreq is 'abc': it must be a number above 0"),
        (("list", "upadhyay2023", "--set", "n=abc"), "n is 'abc': it must be a whole number of 3 or more, or none"),
    ],
)
def test_a_choice_of_nothing_or_of_nonsense_is_one_line(capsys, words, said):
    status, _, err = call(capsys, *words)
    assert (status, len(err)) == (2, 1)
    assert said in err[0]


def test_a_whole_number_that_is_set_is_the_grids_number(capsys):
    words = ("list", "upadhyay2023", "--table", "fig4", "--param")
    grid = call(capsys, *words, "lam=0.0")[1]
    assert call(capsys, *words, "lam=1e-5", "--set", "lam=0")[1] == grid
    assert call(capsys, *words, "lam=0")[1] == grid


def test_a_queue_of_nothing_committed(capsys):
    assert call(capsys, "queue", "--results", "none")[0] == 0


def test_a_task_set_that_is_set_has_its_one_name(capsys):
    words = ("list", "upadhyay2023", "--table", "fig4", "--param", "lam=0.0", "--set")
    assert call(capsys, *words, "tasks=depth+seg")[1] == call(capsys, *words, "tasks=seg+depth")[1]


def test_setting_what_differs_makes_one_run_of_many(capsys):
    choice = (*ONE[2:], "--param", "labels=true", "backbone=shallow")
    assert len(call(capsys, "list", "shin2023", *choice)[1]) == 3
    assert len(call(capsys, "list", "shin2023", *choice, "--set", "subject=1")[1]) == 1


def test_a_filter_by_a_table_or_a_list(capsys):
    def count(*words):
        return len(call(capsys, "list", *words)[1])

    small = ("shin2023", "--profile", "small")
    parts = [count(*small, "--table", table) for table in shin2023.TABLES]
    assert parts == [len(make("small")) for make in shin2023.TABLES.values()]
    assert sum(parts) == count(*small)
    vision = ("upadhyay2023", "--table", "fig3")
    assert count(*vision, "--param", "layers=[1,1,1,1]") == count(*vision)


def test_a_queue_goes_into_a_file_that_a_failure_leaves_alone(capsys, make_record):
    write_jsonl("results/shin2023/quick/a.jsonl", [make_record()])
    assert call(capsys, "queue", "--out", "QUEUE.md")[:2] == (0, [])
    printed = call(capsys, "queue")[1]
    with open("QUEUE.md") as file:
        assert file.read().splitlines() == printed
    with open("results/shin2023/quick/b.jsonl", "w") as file:
        file.write("damaged")
    assert call(capsys, "queue", "--out", "QUEUE.md")[0] == 2
    with open("QUEUE.md") as file:
        assert file.read().splitlines() == printed


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's device that is always full")
def test_a_full_disk_under_the_output_is_one_line():
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "companion", "list", "shin2023"]
        ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("sparsemtl: the output cannot be written")
    assert "Traceback" not in ended.stderr


def test_a_queue_without_results_is_a_mistake(capsys):
    os.rmdir("results")
    status, out, err = call(capsys, "queue")
    assert (status, out) == (2, [])
    assert "no committed records at results: name their folder" in err[0]


def test_export_leaves_out_what_is_damaged_and_says_so(capsys, make_record, tiny_spec):
    store = Store("runs")
    good, bad = make_record(tiny_spec()), make_record(tiny_spec(seed=1))
    store.write(good)
    store.write(bad)
    store.path(bad.spec).write_text("{")
    status, _, err = call(capsys, "export", "shin2023", "a.jsonl")
    assert status == 0
    assert err[0].startswith(f"sparsemtl: left out: runs/shin2023/quick/{bad.hash}.json: damaged")
    assert read_jsonl("a.jsonl") == [good]
    assert "damaged" in call(capsys, "show", bad.hash)[2][0]


def test_an_export_of_nothing_leaves_an_older_file_alone(capsys, make_record):
    write_jsonl("a.jsonl", [make_record()])
    status, _, err = call(capsys, "export", "shin2023", "a.jsonl", "--profile", "full")
    assert (status, len(err)) == (2, 1)
    assert "no record of shin2023 full in runs" in err[0]
    assert len(read_jsonl("a.jsonl")) == 1


def test_data_says_what_is_in_a_set(capsys):
    status, out, err = call(capsys, "data", "simulated-eeg")
    assert (status, err) == (0, [])
    text = "\n".join(out)
    for word in ("64 channels", "160 Hz", "42 trials", "left_hand, right_hand", "recordings 2, 4, 6"):
        assert word in text


MISTAKES = {
    ("list", "shin2032"): "unknown study 'shin2032': choose one of shin2023",
    ("run", "shin2032"): "unknown study 'shin2032'",
    ("export", "shin2032", "a.jsonl"): "unknown study 'shin2032'",
    ("list", "shin2023", "--profile", "huge"): "unknown profile 'huge': choose one of quick, small, full",
    ("run", "shin2023", "--method", "or", "snap"): "unknown method 'snap': this grid has csp-lda, dense-single",
    ("run", "shin2023", "--subject", "99"): "unknown subject 99: this grid has 1, 2",
    ("run", "shin2023", "--seed", "-1"): "unknown seed -1: this grid has 0, 1",
    ("run", "shin2023", "--problem", "six"): "unknown problem 'six': this grid has left-right",
    ("run", "shin2023", "--sparsity", "1.0"): "unknown sparsity 1.0: this grid has 0.0, 0.2, 0.4, 0.8",
    ("run", "shin2023", "--sparsity", "-0.2"): "unknown sparsity -0.2: this grid has 0.0, 0.2, 0.4, 0.8",
    ("run", "shin2023", "--sparsity", "nan"): "unknown sparsity nan: this grid has 0.0, 0.2, 0.4, 0.8",
    ("run", "shin2023", "--store", "file/runs"): "cannot write file/runs",
    ("run", "shin2023", "--workers", "0"): "workers is 0: at least 1",
    ("run", "shin2023", "--device", "tpu"): "unknown device 'tpu': choose cpu or cuda",
    ("list", "shin2023", "--param", "foo=1"): "unknown parameter 'foo': these runs have",
    ("list", "shin2023", "--param", "label=1"): "unknown parameter 'label'",
    ("show", "ffff"): "no record starts with 'ffff' in results or runs",
    ("export", "shin2023", "a.jsonl"): "no record of shin2023 in runs",
    ("import", "absent.jsonl"): "absent.jsonl: no such file",
    ("import", "file"): "file line 1: damaged",
    ("data", "eegmmdb"): "unknown data set 'eegmmdb': choose one of eegmmidb",
    ("data", "simulated-eeg", "--subject", "0"): "simulated-eeg has no person 0",
    ("data", "eegmmidb"): "no recordings of eegmmidb S001",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_and_status_2(capsys, words):
    with open("file", "w") as file:
        file.write("not a record\n")
    status, out, err = call(capsys, *words)
    assert (status, out) == (2, [])
    assert len(err) == 1
    assert err[0].startswith("sparsemtl: ")
    assert MISTAKES[words] in err[0]


def test_a_damaged_committed_file_is_named(capsys):
    os.makedirs("results/shin2023/small")
    with open("results/shin2023/small/a.jsonl", "w") as file:
        file.write('{"schema": 1}\n')
    status, _, err = call(capsys, "list", "shin2023")
    assert (status, len(err)) == (2, 1)
    assert "results/shin2023/small/a.jsonl line 1: lacks hash" in err[0]


@pytest.mark.parametrize("words", [[], ["fly"], ["run"], ["run", "shin2023", "--workers", "two"], ["list", "a", "--x"]])
def test_argparse_mistakes_have_status_2_too(capsys, words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("sparsemtl")


def test_a_cause_that_stops_many_runs_is_told_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MNE_DATA", str(tmp_path / "none"))
    monkeypatch.delenv("SPARSEMTL_DATA", raising=False)
    choice = ["--profile", "small", "--subject", "1", "--seed", "0", "--method", "or", "--problem", "left-right"]
    choice += ["--table", "table1"]
    status = main(["run", "shin2023", *choice, "--sparsity", "0.2", "0.8", "--store", str(tmp_path / "runs")])
    lines = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
    assert status == 2
    assert len(lines) == 1
    assert " and 1 more: no recordings of eegmmidb S001" in lines[0]


def shipped(folder, seeds=(0, 1), accuracy=0.5, **more):
    """Committed records of quick runs, with the same accuracy for all but what `more` gives by seed."""
    specs = [s for s in shin2023.specs("quick", subjects=(1,), methods=("or",), sparsities=(0.4,)) if s.seed in seeds]
    run = {"started": "", "ended": "", "seconds": 1.0, "device": "cpu", "threads": 1, "python": "", "packages": {}}
    records = [
        RunRecord(s, {"metrics": {"accuracy": more.get(f"seed{s.seed}", accuracy)}}, run | {"revision": "abc"})
        for s in specs
    ]
    write_jsonl(folder / "shin2023/quick/a.jsonl", records)
    return records


@pytest.mark.parametrize(
    ("now", "status", "said"),
    [
        ({0: 0.5, 1: 0.7}, 0, "2 to the bit"),
        ({0: 0.5, 1: 0.6}, 0, "1 to the bit, 1 within spread"),
        ({0: 50.0, 1: 0.7}, 2, "1 to the bit, 1 OUTSIDE SPREAD"),
    ],
)
def test_verify_runs_records_again_and_compares(tmp_path, capsys, monkeypatch, now, status, said):
    first, _ = shipped(tmp_path, seed1=0.7)

    def run(spec, root=None, device="cpu"):
        return {"metrics": {"accuracy": now[spec.seed]}}

    monkeypatch.setitem(sys.modules, "a_runner", SimpleNamespace(run=run))
    monkeypatch.setattr(engine, "_runner", lambda study: sys.modules["a_runner"])
    words = ("verify", "shin2023", "--profile", "quick", "--results", ".")
    ended, out, told = call(capsys, *words, "--draw-seed", "7")
    assert (ended, len(out)) == (status, 2)
    assert told == ["2 of 2 committed records, --draw-seed 7", said]
    ended, out, _ = call(capsys, *words, "--hash", first.hash)
    assert out[0].startswith(first.hash)
    assert len(out) == 1
    assert not list(tmp_path.glob("runs/**/*.json"))


def test_verify_says_that_other_data_was_read(tmp_path, capsys, monkeypatch):
    first, _ = shipped(tmp_path)

    def run(spec, root=None, device="cpu"):
        return {"metrics": {"accuracy": 0.5}, "data": {"fingerprint": "e"}}

    monkeypatch.setitem(sys.modules, "a_runner", SimpleNamespace(run=run))
    monkeypatch.setattr(engine, "_runner", lambda study: sys.modules["a_runner"])
    words = ("verify", "shin2023", "--profile", "quick", "--results", ".", "--hash", first.hash)
    status, out, err = call(capsys, *words)
    assert (status, err[-1]) == (2, "1 OTHER DATA")
    assert "what is read here is not what the record read" in out[0]


def test_verify_says_what_it_cannot_do(tmp_path, capsys, runner):
    words = ("verify", "shin2023", "--profile", "quick", "--results", ".")
    assert call(capsys, *words)[2] == ["sparsemtl: none of these runs has a record in .: `list` says which have"]
    shipped(tmp_path)
    assert call(capsys, *words, "--draw", "0")[2] == ["sparsemtl: --draw is 0: it must be 1 or more"]

    def fail(spec, root=None, device="cpu"):
        raise DataError("no recording of subject 1: fetch it")

    sys.modules["a_runner"].run = fail
    status, out, told = call(capsys, *words)
    assert (status, out) == (2, [])
    assert told[1] == "none was made again"
    assert told[2].endswith("and 1 more: no recording of subject 1: fetch it")
