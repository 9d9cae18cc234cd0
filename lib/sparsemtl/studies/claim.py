"""A claim of a paper: the one thing that a verdict is about."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: id, where it is made, our sentence, and the quantity that must be above zero.

    quantity: name of the function of the study's report module (`sparsemtl.report.STUDY`) that gives the paired
    differences by unit of analysis, subjects or seeds.
    """

    id: str
    where: str
    sentence: str
    quantity: str
