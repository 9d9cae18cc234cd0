import hashlib
import json
import shutil
from pathlib import Path

import pytest
from companion.__main__ import main
from companion.crate import NAME, SOURCES, crate
from companion.records import committed, read_jsonl, write_jsonl
from sparsemtl.errors import RecordError

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def made():
    return crate(RESULTS)


@pytest.fixture(scope="module")
def entities(made):
    graph = json.loads(made)["@graph"]
    found = {entity["@id"]: entity for entity in graph}
    assert len(found) == len(graph)
    return found


def test_the_committed_description_is_that_of_the_committed_records(made):
    assert (RESULTS / NAME).read_text(encoding="utf-8") == made, "run `sparsemtl crate`"


def test_it_is_a_crate_with_all_that_the_specification_asks_for(made, entities):
    version, root = "https://w3id.org/ro/crate/1.2", entities["./"]
    assert json.loads(made)["@context"] == f"{version}/context"
    assert (entities[NAME]["conformsTo"], entities[NAME]["about"]) == ({"@id": version}, {"@id": "./"})
    assert (root["@type"], bool(root["name"] and root["description"])) == ("Dataset", True)
    assert max(r.run["ended"] for r in committed(RESULTS)).startswith(root["datePublished"])
    assert entities[root["license"]["@id"]]["name"].startswith("Creative Commons Attribution 4.0")
    papers = {"https://arxiv.org/abs/2312.05828", "https://arxiv.org/abs/2308.12114"}
    assert {paper["@id"] for paper in root["citation"]} == papers


def test_every_reference_leads_to_an_entity(entities):
    def references(value):
        if isinstance(value, dict):
            return {value["@id"]} if set(value) == {"@id"} else set().union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    asked = set().union(*(references({k: v for k, v in e.items() if k != "@id"}) for e in entities.values()))
    assert asked - {"https://w3id.org/ro/crate/1.2"} <= set(entities)  # but the specification itself


def test_every_file_is_there_with_its_size_and_checksum(entities):
    files = {p.relative_to(RESULTS).as_posix(): p for p in [*RESULTS.glob("*/*/*.jsonl"), *RESULTS.glob("b*/*.json")]}
    assert {part["@id"] for part in entities["./"]["hasPart"]} == set(files)
    for name, path in files.items():
        content, entity = path.read_bytes(), entities[name]
        expected = ("File", hashlib.sha256(content).hexdigest(), str(len(content)))
        assert (entity["@type"], entity["sha256"], entity["contentSize"]) == expected
        if path.suffix == ".jsonl":
            data = {SOURCES["data"][record.spec.data]["@id"] for record in read_jsonl(path)}
            assert {b["@id"] for b in entity["isBasedOn"]} == data


def test_the_command_writes_the_same_bytes_and_names_what_it_cannot_describe(tmp_path, make_record, tiny_spec):
    for name in ("CITATION.cff", "pyproject.toml"):
        shutil.copy(RESULTS.parent / name, tmp_path)
    records, results = [make_record(tiny_spec(seed=seed)) for seed in range(3)], tmp_path / "results"
    write_jsonl(results / "shin2023/quick/a.jsonl", records[:2])
    write_jsonl(b := results / "shin2023/quick/b.jsonl", records[2:])
    texts = [(main(["crate", "--results", str(results)]), (results / NAME).read_bytes()) for _ in range(2)]
    assert texts[0] == texts[1] == (0, crate(results).encode())
    with open(tmp_path / "CITATION.cff", "a", encoding="utf-8") as file:
        file.write("date-released: 2031-01-02\n")  # goes before the day of the newest record
    assert '"datePublished": "2031-01-02"' in crate(results)
    b.write_text(b.read_text(encoding="utf-8").replace("0.5", "0.6"), encoding="utf-8")
    with pytest.raises(RecordError, match=r"b\.jsonl line 1: run \w+: the digest"):
        crate(results)
    shutil.rmtree(results / "shin2023")
    with pytest.raises(RecordError, match="no records to describe"):
        crate(results)
    (tmp_path / "pyproject.toml").unlink()
    with pytest.raises(RecordError, match=r"pyproject\.toml: cannot be read"):
        crate(results)
