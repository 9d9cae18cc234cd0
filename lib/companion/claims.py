"""A claim of a paper: the one thing that a verdict is about."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: id, its name in a figure, where it is made, our sentence, and what must be above zero.

    quantity: name of the function of the study's report module (`companion.STUDY`) that gives the paired
    differences by unit of analysis, subjects or seeds; all are shares (0.01 is one percent of `unit`).
    page: notebook that shows the evidence. unit: what an effect is a percentage of.
    """

    id: str
    short: str
    where: str
    sentence: str
    quantity: str
    page: str
    unit: str
