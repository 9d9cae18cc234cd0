from pathlib import Path

from sparsemtl.records import committed
from sparsemtl.report.queue import queue
from sparsemtl.studies import shin2023, upadhyay2023

RESULTS = Path(__file__).parents[2] / "results"


def test_the_committed_queue_is_that_of_the_committed_records():
    made = queue([shin2023, upadhyay2023], committed(RESULTS)) + "\n"
    assert (RESULTS / "QUEUE.md").read_text(encoding="utf-8") == made, (
        "run `python -m sparsemtl queue --store none --out results/QUEUE.md`"
    )
