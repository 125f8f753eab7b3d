"""Hooks of PyInstaller, found by the entry point `pyinstaller40`: they list modules that are imported by name."""

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """The folders that hold hooks: this one."""
    return [str(Path(__file__).parent)]
