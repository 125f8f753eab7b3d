"""Check a built site: `site_checks.py DIRECTORY`: links lead to pages and anchors; names and findings are described."""

import importlib
import posixpath
import sys
import tempfile
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.util.inventory import InventoryFile

from mcast_fast.doctor._finding import RANKING

NAMES = "aio cluster doctor errors files groups monitor receiver sender sequence stats"
MODULES = ("", *(f".{name}" for name in NAMES.split()))


HEAD_OF_INVENTORY = b"""# Sphinx inventory version 2
# Project: x
# Version: 1
# The remainder of this file is compressed using zlib.
"""


class Page(HTMLParser):
    """The anchors and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Keep the tag's `id`, and what it links to."""
        for name, value in attributes:
            if value and name == "id":
                self.anchors.add(value)
            elif value and ((name == "href" and tag in ("a", "link")) or name == "src"):
                self.links.append(value)


def broken_links(site: Path) -> list[str]:
    """Links of all pages that lead nowhere inside the site."""
    pages = {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    broken = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (
                posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path))) if parts.path else name
            )
            anchor = unquote(parts.fragment)
            if target in pages:
                if anchor and anchor not in pages[target].anchors:
                    broken.append(f"{name}: {link}: no such anchor")
            elif not (site / target).exists():
                broken.append(f"{name}: {link}: no such file")
    return broken


def undescribed(site: Path) -> list[str]:
    """Public names that the reference lacks: where the root exports a name, it is described there."""
    described = {
        name
        for kind, names in InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data.items()
        if kind.startswith("py:")
        for name in names
    }
    root = importlib.import_module("mcast_fast").__all__
    return [
        f"mcast_fast{module}.{name} is not in the reference"
        for module in MODULES
        for name in importlib.import_module(f"mcast_fast{module}").__all__
        if f"mcast_fast{module}.{name}" not in described and not (name in root and f"mcast_fast.{name}" in described)
    ]


def check_the_checks() -> None:
    """A site with one page: its links lead nowhere, and it describes no name."""
    with tempfile.TemporaryDirectory() as directory:
        site = Path(directory)
        links = '<a href="gone.html">', '<a href="#gone">', '<img src="gone.png">', '<p id="there"><a href="#there">'
        (site / "index.html").write_text("".join(links), encoding="utf-8")
        line = zlib.compress(b"mcast_fast.Receiver py:class 1 index.html#$ -\n")
        (site / "objects.inv").write_bytes(HEAD_OF_INVENTORY + line)
        gone = broken_links(site)
        assert [text.partition(": ")[2] for text in gone] == [
            "gone.html: no such file",
            "#gone: no such anchor",
            "gone.png: no such file",
        ], gone
        missing = undescribed(site)
        assert "mcast_fast.Sender is not in the reference" in missing, missing
        assert "mcast_fast.Receiver is not in the reference" not in missing, missing


def main() -> None:
    """Print what is wrong, and exit 1 where anything is."""
    check_the_checks()
    site = Path(sys.argv[1])
    anchors = Page((site / "doctor.html").read_text(encoding="utf-8")).anchors
    wrong = broken_links(site) + undescribed(site)
    wrong += [f"doctor.html has no anchor {name}" for name in RANKING if name not in anchors]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{site}: links, names and findings are complete")


if __name__ == "__main__":
    main()
