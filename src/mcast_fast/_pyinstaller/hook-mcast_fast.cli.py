"""The command line, frozen: each verb is imported when it is asked for."""

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("mcast_fast.cli")
