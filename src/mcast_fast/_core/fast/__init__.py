"""The compiled backend: C loops under a thin layer of Cython. The `.pyi` files are the contract, and `pure` keeps it
too."""

import socket  # noqa: F401 - starts Winsock, which membership.pxi needs for its options when it is imported
