"""The compiled backend: C loops under a thin layer of Cython. The `.pyi` files are the contract, and `pure` keeps it
too."""
