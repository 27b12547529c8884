"""Sphinx's settings; `make docs` builds the pages, warnings being errors."""

import re
from typing import Any

from numpy.typing import ArrayLike
from sphinx.util.typing import stringify_annotation

import hypersign

project = "HyperSign"
author = "The HyperSign developers"
project_copyright = author
version = release = hypersign.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"  # `name` in a docstring links to what has that name, and is code otherwise
autodoc_default_options = {"members": True, "imported-members": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
napoleon_numpy_docstring = False
napoleon_use_param = False  # parameters described together stay together
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"HyperSign {release}"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_js_files = ["copy.js"]


def plain_text(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are written to be read as they are; this says the same in reStructuredText.

    An indented block after an empty line is a literal block, and a bar in running text, |w|, is a bar. A colon in
    the first line of a field's description is a colon: napoleon would take what stands before it as a type.
    """
    result: list[str] = [""] if what == "attribute" else []
    literal = False
    for i, line in enumerate(lines):
        if line[:1].strip():
            literal = False
        elif line.startswith("    ") and not literal and i > 1 and not lines[i - 1] and lines[i - 2][:1].strip():
            literal = True
            result += ["::", ""]
        result.append(line if literal else re.sub(r"`[^`]*`|\|", lambda m: "\\|" if m[0] == "|" else m[0], line))
    lines[:] = result


def short_types(
    app: object, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Gives NumPy's ArrayLike, of four lines once written out, its name back."""
    written_out = stringify_annotation(ArrayLike, "smart")
    return signature and signature.replace(written_out, "ArrayLike"), returns


def setup(app: Any) -> None:
    # Before napoleon (priority 500), which takes sections such as Args apart.
    app.connect("autodoc-process-docstring", plain_text, priority=400)
    app.connect("autodoc-process-signature", short_types)
