"""RO-Crate description of `results/`: which records there are, what they rest on, and under which terms."""

import hashlib
import json
import tomllib
from pathlib import Path

from sparsemtl.errors import RecordError, needs

from companion.benchmarks import read as read_benchmark
from companion.files import write_whole
from companion.records import read_jsonl

NAME, VERSION = "ro-crate-metadata.json", "https://w3id.org/ro/crate/1.2"  # the first whose context has `sha256`
# Entities of data sets, their terms and papers; a record's `data` names one by its key
SOURCES = json.loads((Path(__file__).parent / "data" / "sources.json").read_text(encoding="utf-8"))


def crate(results="results"):
    """The description (dict, JSON-LD) of every `STUDY/PROFILE/*.jsonl` and `benchmarks/*.json` below `results`.

    Authors and papers come from CITATION.cff, the software from pyproject.toml, both in the folder above.
    `datePublished` is the citation's `date-released`, or the day of the newest record. Raises `RecordError` for a
    damaged record, for no records at all, for data that `SOURCES` lacks, and if one of the two files is missing.
    """
    needs("crate", "book", "yaml")
    import yaml

    results = Path(results)
    try:
        cited = yaml.safe_load((results.resolve().parent / "CITATION.cff").read_text(encoding="utf-8"))
        project = tomllib.loads((results.resolve().parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except FileNotFoundError as error:
        raise RecordError(f"{error.filename}: not found; describe the results/ of a checkout") from error
    files = {path: records for path in sorted(results.glob("*/*/*.jsonl")) if (records := read_jsonl(path))}
    if not files:
        raise RecordError(f"{results}: no records to describe; run `sparsemtl export` first")
    if unknown := {r.spec.data for records in files.values() for r in records} - SOURCES["data"].keys():
        raise RecordError(f"no description of the data {min(unknown)!r}: add it to companion/data/sources.json")
    parts = [_file(path, results, records) for path, records in files.items()]
    parts += [_file(path, results, read_benchmark(path)) for path in sorted(results.glob("benchmarks/*.json"))]
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
        "datePublished": str(cited.get("date-released") or max(r.run["ended"] for f in files.values() for r in f)[:10]),
        "license": {"@id": SOURCES["license"]}, "author": _ids(authors), "citation": _ids(papers),
        "hasPart": _ids(parts), "mentions": _ids([software]),
    }  # fmt: skip
    about = {"@id": NAME, "@type": "CreativeWork", "about": {"@id": "./"}, "conformsTo": {"@id": VERSION}}
    graph = [about, root, software, *authors, *papers, *SOURCES["data"].values(), *SOURCES["about"], *parts]
    return {"@context": f"{VERSION}/context", "@graph": graph}


def write(results="results"):
    """Write the description of `results` into it; returns the file's path. Errors as `crate`."""
    path, text = Path(results) / NAME, as_text(crate(results))
    with write_whole(path) as file:
        file.write(text)
    return path


def as_text(description):
    """The one text of a description, as `write` writes it."""
    return json.dumps(description, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _ids(entities):
    return [{"@id": entity["@id"]} for entity in entities]


def _file(path, results, content):
    """The entity of a file of records, or of a benchmark record: what is in it, and when and with which code."""
    entity = {
        "@id": path.relative_to(results).as_posix(), "@type": "File", "name": path.name,
        "contentSize": str(path.stat().st_size), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "encodingFormat": "application/json" + "l" * (path.suffix == ".jsonl"), "license": {"@id": SOURCES["license"]},
    }  # fmt: skip
    if path.suffix == ".json":
        return entity | {"description": f"Benchmark record: {', '.join(content.sides)}."}
    facts = {name: {getattr(r.spec, name) for r in content} for name in ("study", "profile", "data", "method", "seed")}
    facts |= {name: {r.run[name] for r in content} for name in ("device", "revision", "python")}
    facts["packages"] = {f"{name} {version}" for r in content for name, version in r.run["packages"].items()}
    words = "; ".join(f"{name}: {', '.join(map(str, sorted(values)))}" for name, values in facts.items())
    used = [{"@id": SOURCES["data"][name]["@id"]} for name in sorted(facts["data"])]
    return entity | {"description": f"{len(content)} run records. {words}", "isBasedOn": used}
