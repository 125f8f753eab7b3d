"""Directives of the reference: what a module exports, and the record, so that no page has a list that is incomplete."""

import importlib
import inspect
import struct

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mcast_fast._core.layout import FIELDS, offsets

ROOT = "mcast_fast"


def _entry(module: str, name: str) -> list[str]:
    """The directive of autodoc for one name, with its options."""
    thing = getattr(importlib.import_module(module), name)
    if inspect.isclass(thing):
        kind = "autoexception" if issubclass(thing, BaseException) else "autoclass"
        bases = "Exception, Warning, object, int, str, tuple, NamedTuple"
        options = ["   :members:", f"   :inherited-members: {bases}"]
        return [f".. {kind}:: {module}.{name}", *options, ""]
    kind = "autofunction" if callable(thing) else "autodata"
    return [f".. {kind}:: {module}.{name}", *(["   :no-value:"] if kind == "autodata" else []), ""]


class PublicNames(SphinxDirective):
    """Describe each name in a module's `__all__` that the root does not export."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The descriptions, in the order of `__all__`."""
        module = self.arguments[0]
        elsewhere = () if module in (ROOT, f"{ROOT}.aio") else importlib.import_module(ROOT).__all__
        names = [name for name in importlib.import_module(module).__all__ if name not in elsewhere]
        lines = [line for name in names for line in _entry(module, name)]
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *lines, "```"]))


class RecordTable(SphinxDirective):
    """The fields of the record: offset, type in NumPy's letters, meaning."""

    def run(self) -> list[nodes.Node]:
        """A table of them."""
        rows = ["| field | offset | type | meaning |", "|---|---|---|---|"]
        starts = offsets()
        for field in FIELDS:
            size = struct.calcsize(f"={field.letter}")
            kind = f"{'i' if field.letter.islower() else 'u'}{size}" + (
                f", {field.size} of them" if field.size > 1 else ""
            )
            rows.append(f"| `{field.name}` | {starts[field.name]} | {kind} | {field.meaning} |")
        return self.parse_text_to_nodes("\n".join(rows))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("public-names", PublicNames)
    app.add_directive("record-table", RecordTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
