"""Toy 2020: is the mean of ten normal draws above zero? Which runs, what was published, what is claimed."""

from companion.claims import Claim
from companion.spec import RunSpec, check_profile, check_values, number, whole

NAME, MAIN = "toy2020", "table1"
RULES = {"draws": whole(1), "shift": number("a number of 0 or more", lambda v: v >= 0)}
PROFILE_SETTINGS = {"quick": range(5), "small": range(20), "full": range(100)}


def specs(profile, shifts=(0.0, 1.0), draws=10):
    """Specs of shifts x seeds."""
    check_values({"draws": draws}, RULES)
    seeds = PROFILE_SETTINGS[check_profile(profile)]
    return [RunSpec(NAME, profile, "normal", "mean", s, {"draws": draws, "shift": d}) for s in seeds for d in shifts]


TABLES = {"table1": specs}
all_specs = specs
CLAIMS = (
    Claim("toy-shift", "shifted over plain", "Table 1", "A shift raises the mean.", "toy2020", "points", "seeds", 0.1),
)
