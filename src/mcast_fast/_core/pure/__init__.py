"""The backend on the standard library alone: the same names, behaviour and messages as `fast`, several times slower."""
