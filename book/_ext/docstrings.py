"""Sphinx extension: the library's docstrings are plain text that reads well in an editor; here they become rST.

Bars, asterisks and underscores in formulas are themselves, not markup: "|w * dL/dw|" would be a substitution. What
stands in columns, indented below a line that ends in a colon, stays in columns.
"""

import re

BACKQUOTED = re.compile(r"(``.+?``|`[^`]+`)")


def as_rst(lines):
    """The lines of a plain docstring as rST; what is in backquotes is left alone."""
    made, before, literal = [], "", False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not literal and before.endswith(":") and not before.startswith(" "):
            last = max(i for i, text in enumerate(made) if text)
            made[last:] = [made[last] + ":", ""]
            literal = True
        elif line and not indented and literal:
            made += [""] if made[-1] else []
            literal = False
        made.append(line if literal else _escaped(line))
        before = line or before
    return made


def _escaped(line):
    parts = BACKQUOTED.split(line)
    parts[::2] = [re.sub(r"\||\*|(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def _process(app, what, name, obj, options, lines):
    # napoleon would take "Name: ..." in the first line of a property for its type: an empty comment goes before it
    lines[:] = ["..", ""] * (what in ("property", "attribute")) + as_rst(lines)


def setup(app):
    """Rewrite each docstring that autodoc shows, before napoleon (of priority 500) writes markup of its own."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
