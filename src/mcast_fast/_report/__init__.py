"""A report of streams as one page: what came of files or groups over time, and the page that shows it.

Rules of this package: `collect`, `grid`, `packets` and `losses` count, `figures` is data, the others make text of it;
no I/O. NumPy is imported when a report is made.
"""
