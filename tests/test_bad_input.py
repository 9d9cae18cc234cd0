"""The corpus of bad inputs: each ends in one line and exit status 2, soon and small, and writes nothing outside.

A case runs in a child of this process, in a folder of its own. The child may use ten seconds of the processor and
2 GiB of memory more than it has at its start. What it opens for writing is recorded.
"""

import os
import re
import resource
import shutil
import sys
import tarfile
import traceback
from pathlib import Path

import numpy as np
import pandas  # noqa: F401  imported here, so that no child has to
import pytest
import scipy.signal  # noqa: F401
import torch
from companion import records
from companion.__main__ import main
from companion.data import load
from companion.data.eegmmidb import FOLDER
from companion.records import write_jsonl
from companion.spec import RunSpec
from mne.filter import filter_data  # noqa: F401
from PIL import Image
from small_sets import HOME, write_edf
from sparsemtl.errors import SparseMTLError
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.compact import compact
from sparsemtl.sparsity.masks import apply_masks, arbiter, budget_masks, sparsity_of, topk_mask
from sparsemtl.sparsity.measure import group_sparsity
from sparsemtl.sparsity.prox import ProxAdamW, prox_group_lasso, prox_group_lasso_scaled
from sparsemtl.sparsity.saliency import prunable, snip
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune

SECONDS, MEMORY = 10, 2**31
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link")


class Watch:
    """Audit hook of a child: refuses what is unreadable, and records what is changed outside cache and store."""

    def __init__(self, place, unreadable):
        named = ("cache", "runs", "file")  # cache and store, also where a file is in their way
        self.allowed = *(str(place / name) for name in named), os.environ["NUMBA_CACHE_DIR"], "/dev/"
        self.unreadable, self.changed = str(unreadable), []

    def __call__(self, event, args):
        if not args or not isinstance(args[0], str | os.PathLike):
            return
        within = args[-1] if event in CHANGES and isinstance(args[-1], int) else -1  # an open folder
        path = os.path.abspath(os.path.join(os.readlink(f"/proc/self/fd/{within}") if within > 0 else "", args[0]))
        if event in ("open", "os.listdir", "os.scandir") and path == self.unreadable:
            raise PermissionError(13, "Permission denied", path)
        writes = event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & WRITING)
        if writes and not path.startswith(self.allowed):
            self.changed.append(f"{event} {path}")


def ended(watch, case):
    """(status, lines on stdout and stderr and then changes outside) of a case in a child of this process."""
    said, out = os.pipe()
    if (child := os.fork()) == 0:
        status = 70
        try:
            os.dup2(out, 1), os.dup2(out, 2)
            sys.stdout = sys.stderr = os.fdopen(1, "w")
            sys.dont_write_bytecode = True
            torch.set_num_threads(1)  # those of the parent are not here
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            sys.addaudithook(watch)
            status = case() if callable(case) else main(list(case))
        except SystemExit as end:
            status = end.code
        except SparseMTLError as error:
            print(error)
            status = 2
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                print(*watch.changed, sep="\n", flush=True)
            finally:
                os._exit(status if isinstance(status, int) else 0)  # whatever happens, a child runs no other test
    os.close(out)
    with open(said, encoding="utf-8") as lines:
        texts = [s for s in lines if s.strip() and not re.search(r"\d/\d+ \[", s)]  # no progress bar
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), texts


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """What torch and the loaders import at their first use, and what torch makes in the temporary folder then."""
    penalty()
    load("simulated-eeg", trials_per_class=3)


@pytest.fixture
def place(repository, tmp_path, monkeypatch):
    """The empty folder that is the repository, home and working folder; the cache is in it, the toy paper is there."""
    for name in ("SPARSEMTL_RUNS", "MNE_DATA", "MNE_DATASETS_EEGBCI_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in (("SPARSEMTL_CACHE", "cache"), ("TMPDIR", "tmp")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    return tmp_path


def check(place, case, expected, unreadable=None):
    status, said = ended(Watch(place, unreadable), case)
    assert (status, len(said)) == (2, 1), "\n".join(said[-20:])
    assert expected in said[0]
    assert len(said[0]) < 1000


# Data sets: name -> (what the line says, what is done to a copy of the small set, words after `data NAME`)


def cut(path, n):
    path.write_bytes(path.read_bytes()[:n])


def edit(path, change):
    """Put `change(array)` in the place of a stored array."""
    array = change(np.load(path) if path.suffix == ".npy" else np.array(Image.open(path)))
    np.save(path, array) if path.suffix == ".npy" else Image.fromarray(array).save(path)


def blank(path, mode, size=(24, 24), value=0):
    Image.new(mode, size, value).save(path)


def attributes(folder, change):
    path = folder / "CelebAMask-HQ-attribute-anno.txt"
    path.write_text(change(path.read_text()))


def edf(folder, run=4):
    return folder / HOME / f"S001R{run:02d}.edf"


def packed(*extra, size=None):
    """The recordings as a pack, with more members or cut to a size."""

    def damage(folder):
        with tarfile.open(folder / "S001.tar.xz", "w:xz", preset=0) as tar:
            tar.add(folder / HOME, "S001")
            for name, kind, link in extra:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, link
                tar.addfile(member)
        shutil.rmtree(folder / FOLDER)
        if size:
            os.truncate(folder / "S001.tar.xz", size)

    return damage


def without(*runs):
    return lambda folder: [edf(folder, run).unlink() for run in runs]


FILE, LINK = tarfile.REGTYPE, tarfile.SYMTYPE
SETS = {
    "nyuv2": {
        "no folder": ("depth is missing", lambda f: shutil.rmtree(f / "depth")),
        "no images": ("no images/ in", lambda f: shutil.rmtree(f / "images")),
        "no file": ("00002", lambda f: (f / "segmentation/00002.png").unlink()),
        "cut jpeg": ("00003.jpg", lambda f: cut(f / "images/00003.jpg", 400)),
        "empty png": ("00003.png", lambda f: cut(f / "segmentation/00003.png", 0)),
        "cut npy": ("00003.npy", lambda f: cut(f / "depth/00003.npy", 500)),
        "huge image": ("00003.png", lambda f: blank(f / "segmentation/00003.png", "L", (14000, 13000))),
        "objects": ("00003.npy", lambda f: np.save(f / "depth/00003.npy", np.array([{"a": 1}]), allow_pickle=True)),
        "label": ("label 41", lambda f: edit(f / "segmentation/00004.png", lambda labels: labels * 0 + 41)),
        "1-bit labels": ("00004.png", lambda f: blank(f / "segmentation/00004.png", "1")),
        "depth 0": ("00005.npy", lambda f: edit(f / "depth/00005.npy", lambda d: d * (d < d.max()))),
        "depth in mm": ("no room does", lambda f: edit(f / "depth/00005.npy", lambda d: 1000 * d)),
        "other size": ("20 x 24", lambda f: blank(f / "segmentation/00006.png", "L", (20, 24), 1)),
        "normals": ("00006.npy", lambda f: np.save(f / "normals/00006.npy", np.full((24, 24, 3), np.nan))),
        "no list": ("train.txt", lambda f: (f / "gt_sets/train.txt").unlink()),
        "overlapping lists": ("00000", lambda f: (f / "gt_sets/test.txt").write_text("00000\n00010\n")),
        "png beside jpeg": ("00001", lambda f: blank(f / "images/00001.png", "RGB")),
        "dangling link": ("nowhere", lambda f: (f / "depth/nowhere.npy").symlink_to(f / "gone")),
        "twin": ("are the same", lambda f: shutil.copy(f / "images/00002.jpg", f / "images/00010.jpg")),
    },
    "celebamask": {
        "no masks": ("CelebAMaskHQ-mask", lambda f: shutil.rmtree(f / "CelebAMaskHQ-mask")),
        "no mask": ("has no file for image 3", lambda f: (f / "CelebAMaskHQ-mask/3.png").unlink()),
        "no part": ("image 00000_skin", lambda f: (f / "CelebAMaskHQ-mask").rename(f / "CelebAMask-HQ-mask-anno")),
        "mask value": ("label 19", lambda f: blank(f / "CelebAMaskHQ-mask/3.png", "L", (32, 32), 19)),
        "attributes of others": ("has no line of 0.jpg", lambda f: attributes(f, lambda s: s.replace(".jpg", "x.jpg"))),
        "too many attributes": ("attribute-anno.txt", lambda f: attributes(f, lambda s: s.replace("4.jpg", "4.jpg 0"))),
        "attribute value": ("-1 or 1", lambda f: attributes(f, lambda s: s.replace("-1", "0", 1))),
        "attribute names": ("Smiling", lambda f: attributes(f, lambda s: s.replace("Smiling", "Bald"))),
        "no attributes": ("attribute-anno.txt", lambda f: (f / "CelebAMask-HQ-attribute-anno.txt").unlink()),
        "too few": ("too few", lambda f: [p.unlink() for p in list((f / "CelebA-HQ-img").iterdir())[2:]]),
    },
    "eegmmidb": {
        "missing runs": ("lacks S001R08.edf, S001R07.edf", without(8, 7)),
        "too few runs": ("no ME recording", without(3, 7, 11), "--allow-missing-runs"),
        "nothing": ("no recordings of eegmmidb S001", lambda f: shutil.rmtree(f / FOLDER)),
        "unknown person": ("has no person 110: choose from 1 to 109", lambda f: None, "--subject", "110"),
        "cut": ("run 4 is damaged", lambda f: cut(edf(f), edf(f).stat().st_size * 2 // 3)),
        "empty": ("run 4 is damaged", lambda f: cut(edf(f), 0)),
        "other channel": ("lacks: C3", lambda f: edf(f).write_bytes(edf(f).read_bytes().replace(b"C3.", b"D3.", 1))),
        "millivolts": ("no scalp has", lambda f: write_edf(edf(f), 4, scale=4000.0)),
        "4 as 8": ("again: one recording has two names", lambda f: shutil.copy(edf(f, 4), edf(f, 8))),
        "3 as 4 with another header": ("again: one recording has two names", lambda f: write_edf(edf(f), 3, who="Y")),
        "list of checksums is text": ("no list of checksums", lambda f: (f / "SHA256SUMS.txt").write_text("word\n")),
        "link to nowhere": ("lacks S001R04.edf", lambda f: [edf(f).unlink(), edf(f).symlink_to(f / "nowhere")]),
        "cut pack": ("S001.tar.xz is damaged", packed(size=100_000)),
        **{
            f"pack with {name} {link}": ("S001.tar.xz holds", packed((name, kind, link)))
            for name, kind, link in (
                ("../S001R03.edf", FILE, ""), ("/S001R03.edf", FILE, ""), ("S001/../../S001/S001R03.edf", FILE, ""),
                ("S001/run.sh", FILE, ""), ("S001/S001R02.edf", LINK, "/etc/passwd"),
                ("S001/S001R02.edf", tarfile.LNKTYPE, "S001/S001R03.edf"), ("S001", LINK, "/"),
                ("S001/S001R02.edf", tarfile.FIFOTYPE, "pipe"),
            )
        },
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in SETS.items() for case in cases])
def test_a_damaged_data_set(place, made, name, case):
    expected, damage, *words = SETS[name][case]
    damage(folder := Path(shutil.copytree(made(name), place / "data" / name)))
    check(place, ("data", name, "--data-dir", str(folder), *words), expected)


@pytest.mark.parametrize(
    ("name", "part"),
    [("nyuv2", "images"), ("nyuv2", "depth/00001.npy"), ("nyuv2", "gt_sets/train.txt"), ("celebamask", "CelebA-HQ-img"),
     ("celebamask", "CelebAMask-HQ-attribute-anno.txt"), ("eegmmidb", HOME / "S001R04.edf")],
)  # fmt: skip
def test_an_unreadable_part_of_a_data_set(place, made, name, part):
    case = ("data", name, "--data-dir", str(made(name)))
    check(place, case, "Permission denied", unreadable=made(name) / part)


# Method and records: what the line says -> a call


IMAGES = torch.ones(2, 3, 4, 4)


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))


def penalty(weight=(4, 3, 3, 3), **group):
    weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(torch.ones(weight))
    return ProxAdamW([{"params": [weight], "penalty": "group_lasso", "lam": 0.1} | group])


CALLS = {
    "lam is nan": lambda: penalty(lam=float("nan")),
    "lam is None": lambda: penalty(lam=None),
    "penalty 'l2'": lambda: penalty(penalty="l2"),
    "complex64": lambda: penalty(nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))),
    "needs": lambda: penalty((4,)),
    "threshold must": lambda: prox_group_lasso(torch.ones(2, 2), -1.0),
    "2 entries for 3 groups": lambda: prox_group_lasso(torch.ones(2, 3), torch.ones(2)),
    "scale has shape": lambda: prox_group_lasso_scaled(torch.ones(2, 2), torch.ones(3), 0.1),
    "sparsity 1.5": lambda: topk_mask({"a": torch.ones(3)}, 1.5),
    "a: scores": lambda: topk_mask({"a": torch.tensor([1.0, float("nan")])}, 0.5),
    "rule 'xor'": lambda: arbiter([{"a": torch.ones(2, dtype=torch.bool)}], "xor"),
    "at least one task": lambda: budget_masks({}, 0.5),
    "bool mask of shape": lambda: apply_masks(net(), {"0.weight": torch.ones(2)}),
    "no Conv or Linear weight": lambda: apply_masks(net(), {"9.weight": torch.ones(2, dtype=torch.bool)}),
    "prefix 'me'": lambda: sparsity_of({"mi.weight": torch.ones(2, dtype=torch.bool)}, "me"),
    "weight_norm": lambda: prunable(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))),
    "loss is nan": lambda: snip(net(), lambda *_: torch.tensor(float("nan"), requires_grad=True), IMAGES, None),
    "NaN or infinite": lambda: snip(net(), cross_entropy, IMAGES / 0, torch.tensor([0, 1])),
    "scalar": lambda: snip(net(), lambda outputs, _: outputs, IMAGES, None),
    "no convolution": lambda: group_sparsity(nn.Linear(3, 3)),
    "Conv2d does not take the example": lambda: compact(nn.Conv2d(3, 4, 3), torch.ones(1, 5, 8, 8)),
    "cannot be copied": lambda: compact(prune.ln_structured(nn.Conv2d(3, 4, 3), "weight", 0.5, n=2, dim=1), IMAGES),
    "got n_times=20": lambda: DualTaskNet(3, 20, 2),
    "has no JSON form": lambda: RunSpec("toy2020", "quick", "normal", "mean", 0, {"lr": float("nan")}),
    "not a run specification": lambda: RunSpec.from_dict([1]),
    "record: schema None": lambda: records.validate([1]),
    "no option fmim": lambda: load("simulated-eeg", fmim=1),
    "argument 'subject'": lambda: load("nyuv2", subject=1),
    "channels='motor'": lambda: load("simulated-eeg", channels="motor"),
    "channels=('C3', 'C3')": lambda: load("simulated-eeg", channels=("C3", "C3")),
    "tmax='4'": lambda: load("simulated-eeg", tmax="4"),
    "tmin must be below tmax": lambda: load("simulated-eeg", tmin=4),
    "shared is 'x'": lambda: load("simulated-eeg", shared="x"),
    "no channel Q9": lambda: load("simulated-eeg", channels=("C3", "Q9"), trials_per_class=3),
    "trials_per_class is 2": lambda: load("simulated-eeg", trials_per_class=2),
    "seed is -1": lambda: load("simulated-eeg", seed=-1),
    "no problem 'reaching'": lambda: load("simulated-eeg", problem="reaching"),
    "border=0.6": lambda: load("nyuv2", border=0.6),
}  # fmt: skip


@pytest.mark.parametrize("expected", CALLS)
def test_a_call_that_cannot_be(place, expected):
    check(place, CALLS[expected], expected)


# Commands: what the line says -> words. The working folder has a text file, a link to itself, and damaged records.

COMMANDS = {
    "unknown study 'toy2032': choose one of": ("list", "toy2032"),
    "unknown profile 'huge': choose one of quick, small, full": ("list", "toy2020", "--profile", "huge"),
    "unknown method 'mode': this grid has mean, median": ("run", "toy2020", "--method", "mean", "mode"),
    "unknown seed -1: this grid has 0, 1, 2, 3, 4": ("run", "toy2020", "--seed", "-1"),
    "unknown parameter 'subject': these runs have draws, shift": ("run", "toy2020", "--subject", "9"),
    "--set makes runs outside it": ("run", "toy2020", "--param", "shift=0.5"),
    "draws is 0: it must be a whole number of 1 or more": ("run", "toy2020", "--set", "draws=0"),
    "unknown parameter 'drawz'": ("run", "toy2020", "--set", "drawz=1"),
    "unknown table 'table9': toy2020 has table1, medians": ("run", "toy2020", "--table", "table9"),
    "cannot write file/runs": ("run", "toy2020", "--store", "file/runs"),
    "workers is 0: at least 1": ("run", "toy2020", "--workers", "0"),
    "give tcp://HOST:PORT, or local:N": ("run", "toy2020", "--scheduler", "here"),
    "method median has no run with the other values": (
        "run", "toy2020", "--method", "mean", "median", "--param", "shift=1.0"),
    "none of the people asked for is in this grid": ("list", "toy2020", "--people", "1-9"),
    "no run of this grid starts with ''": ("list", "toy2020", "--hash", ""),
    "no record starts with 'ffff' in results or runs": ("show", "ffff"),
    "no record with these digits": ("diff", "ffff", "eeee"),
    "no record of toy2020 at the profile": ("export", "toy2020", "a.jsonl"),
    "absent.jsonl: cannot be read": ("import", "absent.jsonl"),
    "file line 1: damaged": ("import", "file"),
    "changed.jsonl line 1": ("import", "changed.jsonl"),
    "loop: ": ("import", "loop"),
    "unknown data set 'eegmmdb': choose one of eegmmidb": ("data", "eegmmdb"),
    "simulated-eeg has no person 0": ("data", "simulated-eeg", "--subject", "0"),
    "no recordings of eegmmidb S001": ("data", "eegmmidb"),
    "no folder given for nyuv2": ("data", "nyuv2"),
    "no CelebA-HQ-img/ in absent": ("data", "celebamask", "--data-dir", "absent"),
    "file: cannot be read": ("export", "toy2020", "a.jsonl", "--store", "file"),
    "loop": ("export", "toy2020", "a.jsonl", "--store", "loop"),
    "loop/x": ("show", "abc", "--store", "loop/x"),
}  # fmt: skip


@pytest.mark.parametrize("expected", COMMANDS)
def test_a_command_that_cannot_be(place, make_record, expected):
    Path("file").write_text("not a record\n")
    os.symlink("loop", "loop")
    write_jsonl("changed.jsonl", [make_record()])
    Path("changed.jsonl").write_text(Path("changed.jsonl").read_text().replace('"value":0.5', '"value":0.6'))
    check(place, COMMANDS[expected], expected)


@pytest.mark.parametrize("words", [("show", "abc"), ("export", "toy2020", "a.jsonl")])
def test_an_unreadable_store(place, words):
    Path("runs/toy2020").mkdir(parents=True)
    check(place, words, "Permission denied", unreadable=Path("runs/toy2020").absolute())


@pytest.mark.parametrize("word", ["list", "run"])
def test_a_store_that_cannot_be_entered_does_not_count_as_empty(place, word):
    Path("runs").mkdir()
    Path("runs/toy2020").symlink_to("toy2020")
    check(place, (word, "toy2020"), "symbolic links")


@pytest.mark.parametrize("name", ["rooms", "faces", "simulated-eeg"])
def test_a_cache_that_cannot_be_written(place, name):
    Path("cache").write_text("a file")
    check(place, ("data", name), "SPARSEMTL_CACHE")


@pytest.mark.parametrize(("word", "name", "expected"), [("data", "rooms", "_CACHE"), ("run", "toy2020", "write runs")])
def test_a_full_disk(place, word, name, expected):
    def case():
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))  # no file of more bytes
        return main([word, name])

    check(place, case, expected)


def test_the_corpus_is_large_enough():
    assert sum(map(len, (*SETS.values(), CALLS, COMMANDS))) >= 60
