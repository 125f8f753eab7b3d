"""Packages that the library can do without, imported when they are first needed."""

import importlib
from typing import Any

from mcast_fast.errors import FeatureError


def module(name: str, what: str, extra: str) -> Any:
    """A module of a package that may be missing.

    Args:
        name: Its name, such as "pyarrow.parquet".
        what: What needs it, for the error.
        extra: The extra of mcast-fast that installs it.

    Returns:
        The module.

    Raises:
        FeatureError: It is missing, or cannot be imported: which of them, and why.
    """
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in (package, name):
            raise FeatureError(f"{what} needs {package}, and importing it failed: {error}") from error
        raise FeatureError(f"{what} needs {package}; install it with: pip install 'mcast-fast[{extra}]'") from None
    except ImportError as error:
        raise FeatureError(f"{what} needs {package}, and importing it failed: {error}") from error
