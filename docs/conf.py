"""The documentation site: `.ci/docs` builds it, with every warning an error."""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

from mcast_fast._version import __version__  # noqa: E402 - found by the path above

project = "mcast-fast"
author = "The mcast-fast authors"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "reference",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "mcast-fast"
html_show_sourcelink = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_prompt_text = "$ "

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False  # what docstrings say of a result is prose, which may hold a colon
python_maximum_signature_line_length = 88

# Types of signatures that have no page of their own are shown and not linked.
nitpicky = False
# Sphinx knows no lexer for outputs of programs, and shows them as they are.
highlight_language = "none"


def _as_site(_app: Sphinx, page: str, source: list[str]) -> None:
    """Make of what GitHub and the tests read what the site needs.

    `<a id="x"></a>` before a heading becomes a target that pages can refer to. A link to a file of the repository
    that is no page becomes its text.
    """
    source[0] = re.sub(r'^(<a id="([\w.-]+)"></a>)\n(?=#)', r"\1\n\n(\2)=\n", source[0], flags=re.MULTILINE)
    if "/" not in page:
        source[0] = re.sub(r"\[([^\]\n]+)\]\(\.\./[^)\n]*\)", r"\1", source[0])


def _as_restructured_text(
    _app: Sphinx, what: str, _name: str, _thing: object, _options: object, lines: list[str]
) -> None:
    """Docstrings are plain text with `names` and indented examples: mark these as reStructuredText does."""
    # In the first line of a property, napoleon takes what is before a colon for its type: an empty comment comes first.
    marked: list[str] = ["..", ""] if what in ("property", "attribute", "data") else []
    before = ""  # the last line that was not empty
    for line in lines:
        parts = re.split(r"(`[^`]+`)", line)
        text = "".join(f"`{part}`" if part.startswith("`") else part.replace("*", r"\*") for part in parts)
        if line.startswith("    ") and marked and not marked[-1] and before and not before.startswith(" "):
            marked += ["::", ""]
        marked.append(line if line.startswith("    ") and "::" in marked[-2:] else text)
        before = line or before
    lines[:] = marked


def _readable_defaults(
    _app: Sphinx, _what: str, _name: str, thing: object, _options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show the values of constants that are defaults, and an f-string as a text: Sphinx parses no f-strings."""
    names = getattr(thing.__init__ if isinstance(thing, type) else thing, "__globals__", {})

    def value(match: re.Match[str]) -> str:
        found = names.get(match[0])
        return repr(found) if isinstance(found, int | float | str) else match[0]

    return (signature and re.sub(r"(?<== )[A-Z][A-Z_]+\b", value, signature.replace('= f"', '= "'))), returns


def setup(app: Sphinx) -> None:
    """Register what is done to the sources."""
    app.connect("source-read", _as_site)
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", _readable_defaults)
