"""Sparse Multitask Learning, Re-run: a tested library under a reproducible paper companion.

The data flow in one direction: a study lists run specs, the engine executes what is missing, each run leaves
one record, the report turns records into tables, figures and verdicts.
"""

__version__ = "0.2.0"
