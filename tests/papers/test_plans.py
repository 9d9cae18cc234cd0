"""The plan of each paper was committed before the code of every record that it is judged on."""

import subprocess
from pathlib import Path

import pytest
from companion.records import committed
from papers.upadhyay2023.study import BLIND

ROOT = Path(__file__).parents[2]
# Subject of a plan's commit -> the paper, and which of its records the plan is about
PLANS = {
    "EEG": ("shin2023", lambda spec: spec.data == "eegmmidb"),
    "vision": ("upadhyay2023", lambda spec: spec.data in ("nyuv2", "celebamask")),
    "released": ("upadhyay2023", lambda spec: spec.params.get("only_near")),
    "l1": ("upadhyay2023", lambda spec: "held" in spec.params),
}


def _git(*words):
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("subject", PLANS)
def test_the_plan_was_committed_before_the_runs_that_it_is_judged_on(subject):
    study, about = PLANS[subject]
    records = [r for r in committed(ROOT / "results", study) if about(r.spec) and r.spec.method != BLIND]
    if not records:
        pytest.skip("no records of this plan")
    if _git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no history")
    plans = _git("log", "--reverse", "--format=%H", f"--grep=^The plan of the {subject} claims").stdout.split()
    assert plans, "no commit is the plan of these records"
    for revision in {r.run["revision"] for r in records}:
        assert not revision.endswith("+"), "a record was made with uncommitted code"
        assert not _git("merge-base", "--is-ancestor", plans[-1], revision).returncode, revision
