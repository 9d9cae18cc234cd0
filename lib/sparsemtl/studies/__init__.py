"""Which specs make a table or figure, the published numbers, and the claims: one module for each study."""

from importlib import import_module

from sparsemtl.errors import SpecError

NAMES = ("shin2023", "upadhyay2023")


def module_of(name):
    """Module of a study; SpecError for an unknown name."""
    if name not in NAMES:
        raise SpecError(f"unknown study {name!r}: choose one of {', '.join(NAMES)}")
    return import_module(f"sparsemtl.studies.{name}")


def label(spec):
    """`RunSpec.label`, and what a study's switches change of its method; of an unknown study the first alone."""
    module = module_of(spec.study) if spec.study in NAMES else None
    flips = module.flipped(spec) if hasattr(module, "flipped") else {}
    return " ".join([spec.label(), *(f"{name}={value}" for name, value in flips.items())])
