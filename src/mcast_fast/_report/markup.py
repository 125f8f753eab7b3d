"""Elements of HTML and SVG as text. Whatever is no Markup is escaped, so that no text of a file or of the network is
markup by accident.

Rules of this module: no I/O.
"""

from html import escape

from mcast_fast.errors import escaped


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Content = str | int | None  # a Markup is a str


def safe(content: Content) -> Markup:
    """As markup: control characters as Python's escapes, which XML forbids; then those that mean something."""
    if isinstance(content, Markup):
        return content
    return Markup("" if content is None else escape(escaped(str(content))))


def tag(name: str, /, *contents: Content, **attributes: Content | float) -> Markup:
    """An element. Attributes: `class_` is class, `stroke_width` is stroke-width; those that are None are left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{safe(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if not contents:
        return Markup(f"<{name}{given}/>")
    return Markup(f"<{name}{given}>{joined(*contents)}</{name}>")


def joined(*contents: Content) -> Markup:
    """One after the other."""
    return Markup("".join(map(safe, contents)))


def _number(value: Content | float) -> Content:
    """Coordinates to a tenth of a pixel."""
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
