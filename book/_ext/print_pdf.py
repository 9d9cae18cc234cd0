"""Prints a page of the book as PDF: python print_pdf.py PAGE.html BOOK.pdf."""

import sys
from pathlib import Path

from chromium import SETTLED, NoChromium, find, launch

FOOTER = """<div style="width: 100%; font: 8px sans-serif; text-align: center">
<span class="pageNumber"></span> / <span class="totalPages"></span></div>"""
MARGIN = {"top": "15mm", "bottom": "18mm", "left": "15mm", "right": "15mm"}


def print_pdf(page, pdf):
    """Print the file `page` as it looks on paper, once its mathematics is set, to the file `pdf`."""
    from playwright.sync_api import sync_playwright

    find()  # before Playwright starts, which takes a second
    with sync_playwright() as playwright:
        browser = launch(playwright)
        shown = browser.new_page(color_scheme="light")
        shown.goto(Path(page).resolve().as_uri())
        shown.evaluate(SETTLED)
        shown.pdf(
            path=pdf,
            format="A4",
            margin=MARGIN,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
            print_background=True,
            tagged=True,
            outline=True,
        )
        browser.close()


def main(arguments):
    """Return 0, or 2 after one line of error."""
    if len(arguments) != 2 or not Path(arguments[0]).is_file():
        print("usage: print_pdf.py PAGE.html BOOK.pdf, where PAGE.html is there", file=sys.stderr)
        return 2
    try:
        print_pdf(*arguments)
    except NoChromium as error:
        print(f"no PDF: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
