"""The committed records are what this code makes of the real data."""

from pathlib import Path

import numpy as np
import pytest
from companion import engine
from companion.records import committed

RESULTS = Path(__file__).parents[1] / "results"


@pytest.mark.realdata
@pytest.mark.parametrize("backbone", ["eegnet", "shallow"])
def test_an_eeg_record_is_made_again_but_for_rounding(real_data, backbone):
    """To the bit on the machine that made it; another one's kernels may round a trial to the other side."""
    root = real_data("eegmmidb")
    wanted = {"subject": 42, "problem": "left-right", "sparsity": 0.4, "labels": "true", "backbone": backbone}
    (record,) = (
        r for r in committed(RESULTS)
        if (r.spec.study, r.spec.profile, r.spec.method, r.spec.seed) == ("shin2023", "small", "or", 0)
        and wanted.items() <= r.spec.params.items()
    )  # fmt: skip
    found = engine.run(record.spec, root)
    assert found.result["data"] == record.result["data"]
    for task in ("mi", "me"):
        ours, its = (np.sum(r.result["confusion"][task], axis=0) for r in (found, record))
        assert its.trace() > 0.75 * its.sum()  # a person of whom something can be lost
        assert np.abs(ours - its).sum() <= 0.2 * its.sum()  # a trial that moves counts twice
    np.testing.assert_allclose(found.result["history"], record.result["history"], rtol=0.1)
