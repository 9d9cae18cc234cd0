"""Sphinx extension: Binder and Colab buttons on notebook pages, where the repository's address is known.

The address is that of the environment variable GITHUB_REPOSITORY ("owner/name", which GitHub Actions sets), else
`repository.url` of _config.yml. Where neither is given there are no buttons: they would lead nowhere.
"""

import os
import re

from sphinx.errors import ExtensionError


def repository_url(environ, configured=""):
    """Address of the public repository, or "" where it is not known; `ExtensionError` for a value that is none."""
    name = environ.get("GITHUB_REPOSITORY", "").strip()
    if not name:
        return (configured or "").strip().rstrip("/")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ExtensionError(f'GITHUB_REPOSITORY is {name!r}: "owner/name" is needed')
    return f"{environ.get('GITHUB_SERVER_URL', 'https://github.com').rstrip('/')}/{name}"


def theme_options(options, environ):
    """The theme's options with the repository's address, or without launch buttons where it is not known (dict)."""
    url = repository_url(environ, options.get("repository_url"))
    if url:
        return options | {"repository_url": url}
    return {k: v for k, v in options.items() if k not in ("repository_url", "launch_buttons")}


def _configure(app, config):
    config.html_theme_options = theme_options(config.html_theme_options, os.environ)


def _notebooks_only(app, pagename, templatename, context, doctree):
    """Take the buttons from pages in Markdown, which have cells too: Colab opens notebooks alone."""
    if not app.env.doc2path(pagename, base=False).endswith(".ipynb"):
        context["header_buttons"] = [b for b in context["header_buttons"] if b.get("label") != "launch-buttons"]


def setup(app):
    """Choose the theme's options before the theme reads them, and the pages after it has made its buttons."""
    app.connect("config-inited", _configure)
    app.connect("html-page-context", _notebooks_only, priority=502)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
