"""RO-Crate description of `results/`: which records there are, what they rest on, and under which terms."""

import hashlib
import json
import tomllib
from pathlib import Path

from sparsemtl.errors import RecordError, needs

from companion.records import read_jsonl, read_text

NAME, VERSION = "ro-crate-metadata.json", "https://w3id.org/ro/crate/1.2"  # the first whose context has `sha256`
# Entities of data sets, their terms and papers; a record's `data` names one by its key
SOURCES = json.loads((Path(__file__).parent / "data" / "sources.json").read_text(encoding="utf-8"))


def crate(results="results"):
    """The description (JSON-LD, str) of every `STUDY/PROFILE/*.jsonl` and `benchmarks/*.json` below `results`.

    Authors and papers come from CITATION.cff, the software from pyproject.toml, both in the folder above. Raises
    `RecordError` for a damaged or missing file, for no records at all, and for data that `SOURCES` lacks.
    """
    needs("crate", "book", "yaml")
    import yaml

    results = Path(results)
    cited = yaml.safe_load(read_text(results.resolve().parent / "CITATION.cff"))
    project = tomllib.loads(read_text(results.resolve().parent / "pyproject.toml"))["project"]
    files = {path: records for path in sorted(results.glob("*/*/*.jsonl")) if (records := read_jsonl(path))}
    records = [record for found in files.values() for record in found]
    if not files:
        raise RecordError(f"{results}: no records to describe; run `sparsemtl export` first")
    if unknown := {r.spec.data for r in records} - SOURCES["data"].keys():
        raise RecordError(f"no description of the data {min(unknown)!r}: add it to companion/data/sources.json")
    parts = [_file(path, results) | _records(found) for path, found in files.items()]
    for path in sorted(results.glob("benchmarks/*.json")):
        sides = ", ".join(json.loads(read_text(path))["sides"])
        parts.append(_file(path, results) | {"description": f"Benchmark record: {sides}."})
    papers = [
        {"@id": "https://arxiv.org/abs/" + paper["identifiers"][0]["value"].removeprefix("arXiv:"),
         "@type": "ScholarlyArticle", "name": paper["title"]} for paper in cited["references"]
    ]  # fmt: skip
    software = {k: project[k] for k in ("name", "description", "version")} | {
        "@id": "#sparsemtl", "@type": ["SoftwareSourceCode", "SoftwareApplication"],
        "license": {"@id": "https://spdx.org/licenses/MIT"}, "softwareRequirements": project["dependencies"],
    }  # fmt: skip
    authors = [{"@id": "#authors", "@type": "Organization"} | author for author in cited["authors"]]
    root = {
        "@id": "./", "@type": "Dataset", "name": f"Run records of {cited['title']}", "description": cited["abstract"],
        "datePublished": str(cited.get("date-released") or max(r.run["ended"] for r in records)[:10]),
        "license": {"@id": SOURCES["license"]}, "author": _ids(authors), "citation": _ids(papers),
        "hasPart": _ids(parts), "mentions": _ids([software]),
    }  # fmt: skip
    about = {"@id": NAME, "@type": "CreativeWork", "about": {"@id": "./"}, "conformsTo": {"@id": VERSION}}
    graph = [about, root, software, *authors, *papers, *SOURCES["data"].values(), *SOURCES["about"], *parts]
    whole = {"@context": f"{VERSION}/context", "@graph": graph}
    return json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _ids(entities):
    return [{"@id": entity["@id"]} for entity in entities]


def _file(path, results):
    return {
        "@id": path.relative_to(results).as_posix(), "@type": "File", "name": path.name,
        "contentSize": str(path.stat().st_size), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "encodingFormat": "application/json" + "l" * (path.suffix == ".jsonl"), "license": {"@id": SOURCES["license"]},
    }  # fmt: skip


def _records(records):
    """What is in a file of records, and when and with which code it was made."""
    facts = {name: {getattr(r.spec, name) for r in records} for name in ("study", "profile", "data", "method", "seed")}
    facts |= {name: {r.run[name] for r in records} for name in ("device", "revision", "python")}
    facts["packages"] = {f"{name} {version}" for r in records for name, version in r.run["packages"].items()}
    words = "; ".join(f"{name}: {', '.join(map(str, sorted(values)))}" for name, values in facts.items())
    used = [{"@id": SOURCES["data"][name]["@id"]} for name in sorted(facts["data"])]
    return {"description": f"{len(records)} run records. {words}", "isBasedOn": used}
