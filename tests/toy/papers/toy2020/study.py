"""Toy 2020: do normal draws with a shift have a larger mean? Which runs, what was published, what is claimed."""

from companion.claims import Claim
from companion.spec import RunSpec, check_profile, check_values, number, whole

NAME, MAIN = "toy2020", "table1"
RULES = {"draws": whole(1), "shift": number("a number of 0 or more", lambda v: v >= 0)}
PROFILE_SETTINGS = {"quick": range(5), "small": range(20), "full": range(60)}
GRID = (("mean", 0.0), ("mean", 1.0), ("median", 0.0))


def specs(profile, grid=GRID[:2], draws=10):
    """Specs of seeds x (method, shift)."""
    check_values({"draws": draws}, RULES)
    seeds = PROFILE_SETTINGS[check_profile(profile)]
    return [RunSpec(NAME, profile, "normal", m, s, {"draws": draws, "shift": d}) for s in seeds for m, d in grid]


TABLES = {"table1": specs, "medians": lambda profile: specs(profile, GRID[2:])}
CLAIMS = (
    Claim("toy-shift", "shifted over plain", "Table 1", "A shift raises the mean.", "toy2020", "points", "seeds", 0.1),
)


def all_specs(profile):
    """Every run of the paper."""
    return specs(profile, GRID)
