"""Tables of Toy 2020, and the effects that decide its claims."""

import pandas as pd
from companion.claims import Effects


def table1(evidence):
    """Mean by seed and shift (DataFrame)."""
    rows = [(r.spec.seed, r.spec.params["shift"], r.result["metrics"]["centre"]) for r in evidence.records]
    return pd.DataFrame(rows, columns=["seed", "shift", "mean"]).pivot(index="seed", columns="shift", values="mean")


def _shift(evidence):
    table = table1(evidence)
    return Effects(table[1.0] - table[0.0])


EFFECTS = {"toy-shift": _shift}
