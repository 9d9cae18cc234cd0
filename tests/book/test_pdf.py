"""The book as a PDF: one page, one list of contents."""

import os
import re
import subprocess
import sys
from pathlib import Path

import chromium
import pages
import pytest

SCRIPT = Path(__file__).parents[2] / "book/_ext/print_pdf.py"
PAGE = '<html lang="en"><title>t</title><p>one</p><p style="break-before: page">two</p></html>'


def print_pdf(folder, **environment):
    (folder / "page.html").write_text(PAGE)
    command = [sys.executable, SCRIPT, "page.html", "book.pdf"]
    return subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.browser
def test_a_page_is_printed_on_as_many_sheets_as_it_breaks_into(tmp_path):
    try:
        chromium.find()
    except chromium.NoChromium as error:
        pytest.skip(str(error))
    done = print_pdf(tmp_path)
    assert done.returncode == 0, done.stderr
    pdf = (tmp_path / "book.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 2


def test_without_a_browser_there_is_one_line_of_error_and_no_pdf(tmp_path):
    done = print_pdf(tmp_path, SPARSEMTL_CHROMIUM="no-such-browser")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no-such-browser" in done.stderr
    assert not (tmp_path / "book.pdf").exists()


@pytest.mark.parametrize("lists", [1, 2])
def test_the_chapters_of_all_parts_are_items_of_one_list(lists):
    part = '<p class="caption" role="heading"><span>Part</span></p>\n<ul>\n<li><a href="#x">X</a></li>\n</ul>\n'
    item = '<li class="part"><span>Part</span></li><li><a href="#x">X</a></li>'
    assert pages.one_list(part * lists) == f"<ul>{item * lists}</ul>"
