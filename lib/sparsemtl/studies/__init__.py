"""Which specs make a table or figure, the published numbers, and the claims: one module for each study."""

from importlib import import_module


def label(spec):
    """`RunSpec.label`, and what a study's switches change of its method."""
    study = import_module(f"sparsemtl.studies.{spec.study}")
    flips = study.flipped(spec) if hasattr(study, "flipped") else {}
    return " ".join([spec.label(), *(f"{name}={value}" for name, value in flips.items())])
