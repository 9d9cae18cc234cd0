"""Sphinx extension: mends what Sphinx and its extensions put wrongly into every page."""

from bs4 import BeautifulSoup


def _source(script):
    """What tells two scripts or style sheets apart: the file, or the text where it stands in the page."""
    return str(script.filename or script.attributes.get("body"))


def without_repeats(scripts):
    """Each once, and none of Thebe: it would come from another host, and declared twice it is an error."""
    kept = {}
    for script in scripts:
        source = _source(script)
        if "thebe" not in source.lower():
            kept.setdefault(source, script)
    return list(kept.values())


def with_list_items(body):
    """The entries of a bibliography as items of a list: docutils gives them a role that no list may hold."""
    return body.replace(' role="doc-biblioentry"', ' role="listitem"')


def one_list(toc):
    """The contents of the book on one page as one list, parts as items of it: of several the theme reads the first."""
    soup = BeautifulSoup(toc, "html.parser")
    whole = soup.new_tag("ul")
    for element in soup.find_all(["p", "ul"], recursive=False):
        if element.name == "p":
            element.name, element.attrs = "li", {"class": ["part"]}
            whole.append(element)
        else:
            whole.extend(element.find_all("li", recursive=False))
    return str(whole)


def _mend(app, pagename, templatename, context, doctree):
    for kind in ("script_files", "css_files"):
        context[kind] = without_repeats(context[kind])
    if "body" in context:
        context["body"] = with_list_items(context["body"])


def _list(app, pagename, templatename, context, doctree):
    if app.builder.name == "singlehtml" and context.get("toc"):
        context["toc"] = one_list(context["toc"])


def setup(app):
    """Mend each page after all other extensions have added to it, its contents before the theme (500) reads them."""
    app.connect("html-page-context", _list, priority=100)
    app.connect("html-page-context", _mend, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
