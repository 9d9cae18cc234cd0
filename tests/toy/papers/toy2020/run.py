"""One run of Toy 2020."""

import numpy as np


def run(spec, root=None, device="cpu"):
    """Result dict: the mean or the median of the draws."""
    draws = np.random.default_rng(spec.seed).normal(spec.params["shift"], size=spec.params["draws"])
    return {"metrics": {"centre": getattr(np, spec.method)(draws)}}
