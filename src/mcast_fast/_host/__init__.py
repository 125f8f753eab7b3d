"""This machine: its interfaces and their changes, what a card and the kernel know of them, and the process's rights.

Rules of this package: it queries and reports; nothing is joined, received or sent.
"""
