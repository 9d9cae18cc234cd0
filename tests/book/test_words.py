"""The prose of the book is plain: no banned words, no sentence above 30 words."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]
BANNED = r"\b(told|lies|anew|at hand|there is none|those that|to be had|tells? apart)\b|\bstands? (on|in|behind)\b"
MOST = 30  # words of a sentence


def prose(path):
    """Paragraphs, list items, headings, glossary entries and cells of tables, without code, addresses and roles."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    text = re.sub(r"^```\{glossary\}$.*?^```$", lambda m: m[0][13:-3].replace("\n    ", "\n"), text, flags=re.M | re.S)
    text = re.sub(r"\A---\n.*?\n---\n|^```.*?^```|^    .*?$|^:.*?$|^\(.*\)=$", "", text, flags=re.M | re.S)
    text = re.sub(r" \| |^\|", "\n\n", text, flags=re.M)
    text = re.sub(r"\{[\w:]+\}`([^`<]*?)(<[^>]*>)?`|`[^`]*`", r"\1", text)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n|\n(?=[-#*\d])", text) if part.strip()]


def faults(path):
    """What is wrong with the words of a page, one line each."""
    for part in prose(path):
        yield from (f"{path.name}: {m[0]!r} in: {part[:60]}" for m in re.finditer(BANNED, part, re.I))
        for sentence in re.split(r"(?<=[.:;?!])\s", part):
            if len(sentence.split()) > MOST:
                yield f"{path.name}: {len(sentence.split())} words: {sentence[:60]}"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_words_are_plain_and_sentences_short(path):
    assert not list(faults(path))
