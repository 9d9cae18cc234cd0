"""RO-Crate description of `results/`: which records there are, what they rest on, and under which terms."""

import hashlib
import json
import tomllib
from pathlib import Path

from sparsemtl.errors import RecordError, needs

from companion.benchmarks import read as read_benchmark
from companion.records import read_jsonl, written_whole

NAME = "ro-crate-metadata.json"
VERSION = "1.2"  # of the RO-Crate specification; the first whose context has `sha256`

CC_BY, MIT = "https://spdx.org/licenses/CC-BY-4.0", "https://spdx.org/licenses/MIT"
ODC_BY = "https://opendatacommons.org/licenses/by/1-0/"
CELEBA_TERMS = "https://github.com/switchablenorms/CelebAMask-HQ#dataset-agreement"
LICENCES = {
    CC_BY: ("Creative Commons Attribution 4.0 International", "Licence of the run records and of the book's text."),
    MIT: ("MIT License", "Licence of the software."),
    ODC_BY: ("Open Data Commons Attribution License v1.0", "Licence of the EEG recordings, given by PhysioNet."),
    CELEBA_TERMS: (
        "CelebAMask-HQ Dataset Agreement",
        "Non-commercial research only; no part of the pictures may be published or passed on.",
    ),
}
# What a record's `data` names: address, name, terms as their owners state them, and what to cite (address: title).
# The library makes those without an address of their own.
SOURCES = {
    "eegmmidb": {
        "@id": "https://physionet.org/content/eegmmidb/1.0.0/",
        "name": "EEG Motor Movement/Imagery Dataset 1.0.0 (PhysioNet)",
        "identifier": "https://doi.org/10.13026/C28G6P",
        "license": {"@id": ODC_BY},
        "citation": {
            "https://doi.org/10.1109/TBME.2004.827072": "BCI2000: a general-purpose brain-computer interface system",
            "https://doi.org/10.1161/01.CIR.101.23.e215": "PhysioBank, PhysioToolkit, and PhysioNet",
        },
    },
    "nyuv2": {
        "@id": "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
        "name": "NYU Depth Dataset V2, labelled part",
        "conditionsOfAccess": "Public; its page asks for a citation and states no licence.",
        "citation": {
            "https://doi.org/10.1007/978-3-642-33715-4_54": "Indoor segmentation and support inference from RGBD images"
        },
    },
    "celebamask": {
        "@id": "https://github.com/switchablenorms/CelebAMask-HQ",
        "name": "CelebAMask-HQ",
        "license": {"@id": CELEBA_TERMS},
        "conditionsOfAccess": "Non-commercial research only.",
        "citation": {
            "https://arxiv.org/abs/1907.11922": "MaskGAN: Towards diverse and interactive facial image manipulation"
        },
    },
    "simulated-eeg": {"@id": "#simulated-eeg", "name": "Simulated recordings, made by sparsemtl from a seed"},
    "rooms": {"@id": "#rooms", "name": "Simulated rooms, made by sparsemtl from a seed"},
    "faces": {"@id": "#faces", "name": "Simulated faces, made by sparsemtl from a seed"},
}


def crate(results="results"):
    """The description (dict, JSON-LD) of every `STUDY/PROFILE/*.jsonl` and `benchmarks/*.json` below `results`.

    Authors, title and papers come from CITATION.cff, the software's requirements from pyproject.toml, both in the
    folder above `results`. `datePublished` is the citation's `date-released`, else the day of the newest record: no
    clock is read. Raises `RecordError` for a record that does not validate, for no records at all, and where one of
    the two files is missing.
    """
    needs("crate", "book", "rocrate", "yaml")
    from rocrate.rocrate import ROCrate

    results = Path(results)
    cited, project = _project(results.resolve().parent)
    files = {path: read_jsonl(path) for path in sorted(results.glob("*/*/*.jsonl"))}
    if not any(files.values()):
        raise RecordError(f"{results}: no records to describe; run `sparsemtl export` first")
    made = ROCrate(version=VERSION)
    add = _adder(made)
    for address, (name, text) in LICENCES.items():
        add(address, "CreativeWork", name=name, description=text)
    authors = [add(**_agent(author)) for author in cited["authors"]]
    papers = [add(**_paper(paper, add)) for paper in cited["references"]]
    software = add(**_software(project, cited, add), author=authors)
    used = {r.spec.data for records in files.values() for r in records}
    if unknown := used - SOURCES.keys():
        raise RecordError(f"no description of the data {min(unknown)!r}: add it to SOURCES of {__name__}")
    sources = {name: add(**_source(source, add)) for name, source in SOURCES.items()}
    for source in sources.values():
        if source.id.startswith("#"):
            source["isBasedOn"], source["creator"] = software, authors
    add("https://jsonlines.org/", "WebPage", name="JSON Lines")

    actions = []
    for path, records in files.items():
        if not records:
            continue
        file = made.add_file(path, path.relative_to(results).as_posix(), properties=_file(path, records))
        data = [sources[name] for name in sorted({r.spec.data for r in records})]
        file["isBasedOn"] = data
        actions.append(add(**_action(file, records), instrument=software, object=data, result=file))

    for path in sorted(results.glob("benchmarks/*.json")):
        made.add_file(path, path.relative_to(results).as_posix(), properties=_benchmark(path))

    root = made.root_dataset
    newest = max(r.run["ended"] for records in files.values() for r in records)
    root["name"] = f"Run records of {cited['title']}"
    root["description"] = (
        f"Each line of each file is one run: its specification, its result with a checksum, and where, when and with "
        f"which code it was made. {cited['abstract']}"
    )
    root["datePublished"] = str(cited.get("date-released") or newest[:10])
    root["license"] = {"@id": CC_BY}
    root["author"] = authors
    root["citation"] = papers
    root["mentions"] = [software, *sources.values(), *actions]
    return made.metadata.generate()


def write(results="results"):
    """Write the description of `results` into it; returns the file's path. Errors as `crate`."""
    path = Path(results) / NAME
    text = as_text(crate(results))
    with written_whole(path) as file:
        file.write(text)
    return path


def as_text(description):
    """The one text of a description, as `write` writes it."""
    return json.dumps(description, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _project(folder):
    """(CITATION.cff, `project` table of pyproject.toml) of a checkout."""
    import yaml

    try:
        cited = yaml.safe_load((folder / "CITATION.cff").read_text(encoding="utf-8"))
        return cited, tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except FileNotFoundError as error:
        raise RecordError(f"{error.filename}: not found; describe the results/ of a checkout") from error


def _adder(made):
    """Function that puts an entity into the crate once and returns it."""
    from rocrate.model import ContextEntity

    def add(id, type, **properties):
        found = made.get(id)
        return found or made.add(ContextEntity(made, id, properties={"@type": type} | properties))

    return add


def _agent(author):
    """A person or an organisation of CITATION.cff."""
    if "name" in author:
        return {"id": "#" + _slug(author["name"]), "type": "Organization", "name": author["name"]}
    name = f"{author['given-names']} {author['family-names']}"
    return {
        "id": author.get("orcid", "#" + _slug(name)), "type": "Person", "name": name,
        "givenName": author["given-names"], "familyName": author["family-names"],
    }  # fmt: skip


def _paper(paper, add):
    """A reference of CITATION.cff."""
    arxiv = next(i["value"] for i in paper["identifiers"] if i["value"].startswith("arXiv:"))
    return {
        "id": "https://arxiv.org/abs/" + arxiv.removeprefix("arXiv:"), "type": "ScholarlyArticle",
        "name": paper["title"], "identifier": arxiv, "datePublished": str(paper["year"]),
        "author": [add(**_agent(author)) for author in paper["authors"]],
    }  # fmt: skip


def _software(project, cited, add):
    python = add("https://www.python.org/", "ComputerLanguage", name="Python", version=project["requires-python"])
    return {
        "id": "#" + project["name"], "type": ["SoftwareSourceCode", "SoftwareApplication"], "name": project["name"],
        "description": project["description"], "version": project["version"], "softwareVersion": project["version"],
        "programmingLanguage": python, "license": {"@id": MIT},
        "softwareRequirements": [f"Python {project['requires-python']}", *project["dependencies"]],
    }  # fmt: skip


def _source(source, add):
    cited = [add(id, "ScholarlyArticle", name=name) for id, name in source.get("citation", {}).items()]
    told = {k: v for k, v in source.items() if k not in ("@id", "citation")}
    kind = {
        "id": source["@id"],
        "type": "CreativeWork",
        "additionalType": "Dataset",
    }  # "Dataset" means a part of the crate
    return kind | told | ({"citation": cited} if cited else {})


def _file(path, records):
    study, profile = path.parts[-3:-1]
    return _content(path) | {
        "description": _described(records), "keywords": [f"study {study}", f"profile {profile}"],
        "encodingFormat": ["application/jsonl", {"@id": "https://jsonlines.org/"}],
    }  # fmt: skip


def _benchmark(path):
    record = read_benchmark(path)
    where = record.environment
    told = f"{where['device']} ({where['processor']}), {where['threads']} threads, {where['ended'][:10]}"
    return _content(path) | {
        "description": f"Benchmark record: {', '.join(record.sides)}. {told}.", "keywords": ["benchmark", record.name],
        "encodingFormat": "application/json",
    }  # fmt: skip


def _content(path):
    content = path.read_bytes()
    return {
        "name": path.name, "contentSize": str(len(content)), "license": {"@id": CC_BY},
        "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip


def _described(records):
    """What is in a file, in words that follow from its records."""
    specs = [r.spec for r in records]
    told = {"study": {s.study for s in specs}, "profile": {s.profile for s in specs}, "data": {s.data for s in specs}}
    for name in ("problem", "subject", "tasks"):
        told[name] = {s.params[name] for s in specs if name in s.params}
    told |= {"method": {s.method for s in specs}, "seed": {s.seed for s in specs}}
    told["device"] = {r.run["device"] for r in records}
    facts = "; ".join(f"{k}: {', '.join(map(str, sorted(v)))}" for k, v in told.items() if v)
    return f"{len(records)} run records. {facts}."


def _action(file, records):
    """When and with which code and packages the records of a file were made."""
    packages = sorted({f"{name} {version}" for r in records for name, version in r.run["packages"].items()})
    revisions = sorted({r.run["revision"] for r in records})
    return {
        "id": "#" + _slug(file.id), "type": "CreateAction", "name": f"Runs of {file.id}",
        "startTime": min(r.run["started"] for r in records), "endTime": max(r.run["ended"] for r in records),
        "description": f"Code revision {', '.join(revisions)}; Python "
        f"{', '.join(sorted({r.run['python'] for r in records}))}; {', '.join(packages)}.",
    }  # fmt: skip


def _slug(text):
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
