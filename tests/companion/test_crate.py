import hashlib
import json
import shutil
from pathlib import Path

import pytest
from companion.crate import NAME, SOURCES, as_text, crate, write
from companion.records import committed, read_jsonl, write_jsonl
from papers.shin2023 import study as shin2023
from papers.upadhyay2023 import study as upadhyay2023
from sparsemtl.errors import RecordError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


@pytest.fixture(scope="module")
def made():
    return crate(RESULTS)


@pytest.fixture(scope="module")
def entities(made):
    found = {entity["@id"]: entity for entity in made["@graph"]}
    assert len(found) == len(made["@graph"]), "an entity is described twice"
    return found


@pytest.fixture
def checkout(tmp_path, make_record, tiny_spec):
    """A repository with two files of three records."""
    for name in ("CITATION.cff", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    folder = tmp_path / "results/shin2023/small"
    records = [make_record(tiny_spec(seed=seed, profile="small")) for seed in range(3)]
    write_jsonl(folder / "a.jsonl", records[:2])
    write_jsonl(folder / "b.jsonl", records[2:])
    return tmp_path


def test_the_committed_description_is_that_of_the_committed_records(made):
    assert (RESULTS / NAME).read_text(encoding="utf-8") == as_text(made), "run `sparsemtl crate`"


def test_it_is_a_crate_with_all_that_the_specification_asks_for(made, entities):
    assert made["@context"] == "https://w3id.org/ro/crate/1.2/context"
    assert entities[NAME]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.2"}
    assert entities[NAME]["about"] == {"@id": "./"}
    root = entities["./"]
    assert root["@type"] == "Dataset"
    assert root["name"]
    assert root["description"]
    newest = max(record.run["ended"] for record in committed(RESULTS))
    assert newest.startswith(root["datePublished"])
    assert entities[root["license"]["@id"]]["name"].startswith("Creative Commons Attribution 4.0")
    assert {paper["@id"] for paper in root["citation"]} == {
        "https://arxiv.org/abs/2312.05828",
        "https://arxiv.org/abs/2308.12114",
    }


def test_every_reference_leads_to_an_entity(made, entities):
    def references(value):
        if isinstance(value, dict):
            return {value["@id"]} if set(value) == {"@id"} else set().union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    outside = {"https://w3id.org/ro/crate/1.2"}  # the specification itself
    asked = set().union(*(references({k: v for k, v in e.items() if k != "@id"}) for e in made["@graph"]))
    assert asked - outside <= set(entities)


def test_every_file_of_records_is_there_with_its_size_and_checksum(entities):
    parts = [part["@id"] for part in entities["./"]["hasPart"]]
    runs = sorted(path.relative_to(RESULTS).as_posix() for path in RESULTS.glob("*/*/*.jsonl"))
    benchmarks = sorted(path.relative_to(RESULTS).as_posix() for path in RESULTS.glob("benchmarks/*.json"))
    assert sorted(parts) == sorted(runs + benchmarks)
    for name in benchmarks:
        assert entities[name]["sha256"] == hashlib.sha256((RESULTS / name).read_bytes()).hexdigest()
    for name in runs:
        content, records = (RESULTS / name).read_bytes(), read_jsonl(RESULTS / name)
        file = entities[name]
        assert file["@type"] == "File"
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["contentSize"] == str(len(content))
        assert {b["@id"] for b in file["isBasedOn"]} == {SOURCES["data"][r.spec.data]["@id"] for r in records}


def test_every_data_set_that_a_study_names_is_described_with_its_terms():
    named = {s.data for study in (shin2023, upadhyay2023) for p in ("quick", "small") for s in study.all_specs(p)}
    assert named <= set(SOURCES["data"])
    real = [source for source in SOURCES["data"].values() if source["@id"].startswith("https://")]
    assert all(source["citation"] and {"license", "conditionsOfAccess"} & set(source) for source in real)


def test_the_rocrate_package_reads_it_back(checkout):
    ROCrate = pytest.importorskip("rocrate.rocrate").ROCrate
    write(checkout / "results")
    read = ROCrate(checkout / "results")
    assert read.root_dataset["license"]["name"].startswith("Creative Commons")
    assert {entity.id for entity in read.data_entities} == {"shin2023/small/a.jsonl", "shin2023/small/b.jsonl"}


def test_the_same_records_give_the_same_bytes_and_others_give_others(checkout):
    results = checkout / "results"
    before = write(results).read_text(encoding="utf-8")
    assert write(results).read_text(encoding="utf-8") == before
    b = results / "shin2023/small/b.jsonl"
    b.write_text(b.read_text(encoding="utf-8") + "\n", encoding="utf-8")  # the same record, another checksum
    assert as_text(crate(results)) != before


def test_a_released_date_goes_before_the_day_of_the_newest_record(checkout):
    with open(checkout / "CITATION.cff", "a", encoding="utf-8") as file:
        file.write("date-released: 2031-01-02\n")
    root = next(e for e in crate(checkout / "results")["@graph"] if e["@id"] == "./")
    assert root["datePublished"] == "2031-01-02"


def test_what_cannot_be_described_is_named(checkout):
    (checkout / "pyproject.toml").unlink()
    with pytest.raises(RecordError, match=r"pyproject\.toml: not found"):
        crate(checkout / "results")
    shutil.copy(ROOT / "pyproject.toml", checkout)
    path = checkout / "results/shin2023/small/b.jsonl"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["result"]["value"] = 0.999
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(RecordError, match=r"b\.jsonl line 1: run \w+: the digest does not belong"):
        crate(checkout / "results")
    shutil.rmtree(checkout / "results/shin2023")
    with pytest.raises(RecordError, match="no records to describe"):
        crate(checkout / "results")
