"""Directives of the reference: what a module exports, so that no page holds a list of names that could be incomplete."""

import importlib
import inspect

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

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


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
