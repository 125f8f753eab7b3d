"""Tables in HTML, for notebooks. What is in a cell is escaped: names and payloads come from the network.

Rules of this module: no I/O.
"""

from collections.abc import Iterable


def table(caption: str, header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table with a caption, a row of headers and rows of cells; None is shown as a dash."""
    from html import escape  # with its entities it would be a part of `import mcast_fast`

    def row(cells: Iterable[object], tag: str) -> str:
        texts = (escape("-" if cell is None else f"{cell:,}" if type(cell) is int else str(cell)) for cell in cells)
        return f"<tr>{''.join(f'<{tag}>{text}</{tag}>' for text in texts)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table><caption>{escape(caption)}</caption><thead>{row(header, 'th')}</thead><tbody>{body}</tbody></table>"
