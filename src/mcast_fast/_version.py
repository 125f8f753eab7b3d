"""The version, alone, so that the build reads it without importing the package."""

__version__ = "0.1.0"


def version_text(backend: str) -> str:
    """What the program says of itself."""
    return f"mcast-fast {__version__}, {backend} backend"
