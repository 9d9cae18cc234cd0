"""The plan of each paper was committed before the code of every record that it is judged on."""

import subprocess
from pathlib import Path

import pytest
from companion.records import committed
from papers.upadhyay2023.study import BLIND

ROOT = Path(__file__).parents[2]


def _git(*words):
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("study", "subject"), [("shin2023", "EEG"), ("upadhyay2023", "vision")])
def test_the_plan_was_committed_before_the_runs_that_it_is_judged_on(study, subject):
    plans = _git("log", "--reverse", "--format=%H", f"--grep=^The plan of the {subject} claims").stdout.split()
    if not plans:
        pytest.skip("no history with the plan")
    records = [r for r in committed(ROOT / "results", study) if r.spec.data in ("eegmmidb", "nyuv2", "celebamask")]
    for revision in {r.run["revision"] for r in records if r.spec.method != BLIND}:
        assert not revision.endswith("+"), "a record was made with uncommitted code"
        assert not _git("merge-base", "--is-ancestor", plans[-1], revision).returncode, revision
