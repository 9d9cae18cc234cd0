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

    Authors, title and papers come from CITATION.cff, the software from pyproject.toml, both in the folder above.
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
    benchmarks = {path: read_benchmark(path) for path in sorted(results.glob("benchmarks/*.json"))}
    parts = [_file(path, results, _described(records)) for path, records in files.items()]
    parts += [_file(path, results, f"Benchmark record: {', '.join(r.sides)}.") for path, r in benchmarks.items()]
    for part, records in zip(parts, files.values(), strict=False):
        part["isBasedOn"] = [{"@id": SOURCES["data"][name]["@id"]} for name in sorted({r.spec.data for r in records})]
    papers = [_paper(paper) for paper in cited["references"]]
    software = {
        "@id": f"#{project['name']}", "@type": ["SoftwareSourceCode", "SoftwareApplication"], "name": project["name"],
        "description": project["description"], "version": project["version"],
        "license": {"@id": "https://spdx.org/licenses/MIT"},
        "softwareRequirements": [f"Python {project['requires-python']}", *project["dependencies"]],
    }  # fmt: skip
    authors = [{"@id": "#" + author["name"].replace(" ", "-"), "@type": "Organization"} | author
               for author in cited["authors"]]  # fmt: skip
    newest = max(r.run["ended"] for records in files.values() for r in records)
    root = {
        "@id": "./", "@type": "Dataset", "name": f"Run records of {cited['title']}",
        "description": f"Each line of each file is one run: its specification, its result with a checksum, and where, "
        f"when and with which code it was made. {cited['abstract']}",
        "datePublished": str(cited.get("date-released") or newest[:10]), "license": {"@id": SOURCES["license"]},
        "author": _ids(authors), "citation": _ids(papers), "hasPart": _ids(parts), "mentions": [_id(software)],
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


def _id(entity):
    return {"@id": entity["@id"]}


def _ids(entities):
    return [_id(entity) for entity in entities]


def _paper(paper):
    arxiv = next(i["value"] for i in paper["identifiers"] if i["value"].startswith("arXiv:"))
    address = "https://arxiv.org/abs/" + arxiv.removeprefix("arXiv:")
    authors = ", ".join(f"{author['given-names']} {author['family-names']}" for author in paper["authors"])
    return {"@id": address, "@type": "ScholarlyArticle", "name": paper["title"], "creditText": authors}


def _file(path, results, text):
    content = path.read_bytes()
    return {
        "@id": path.relative_to(results).as_posix(), "@type": "File", "name": path.name, "description": text,
        "contentSize": str(len(content)), "sha256": hashlib.sha256(content).hexdigest(),
        "encodingFormat": "application/jsonl" if path.suffix == ".jsonl" else "application/json",
        "license": {"@id": SOURCES["license"]},
    }  # fmt: skip


def _described(records):
    """What is in a file, when and with which code it was made."""
    facts = {name: {getattr(r.spec, name) for r in records} for name in ("study", "profile", "data", "method", "seed")}
    facts |= {name: {r.run[name] for r in records} for name in ("device", "revision", "python")}
    facts["packages"] = {f"{name} {version}" for r in records for name, version in r.run["packages"].items()}
    facts["ended"] = {r.run["ended"][:10] for r in records}
    return f"{len(records)} run records. " + "; ".join(
        f"{k}: {', '.join(map(str, sorted(v)))}" for k, v in facts.items()
    )
