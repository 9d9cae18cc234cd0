"""Sphinx extension: mends what Sphinx and its extensions put wrongly into every page."""


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


def _mend(app, pagename, templatename, context, doctree):
    for kind in ("script_files", "css_files"):
        context[kind] = without_repeats(context[kind])
    if "body" in context:
        context["body"] = with_list_items(context["body"])


def setup(app):
    """Mend each page after all other extensions have added to it."""
    app.connect("html-page-context", _mend, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
