"""Machinery that re-runs papers and knows none by name: data, specs, engine, records, claims, pages, command line."""
