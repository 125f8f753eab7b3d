"""The library, frozen: both backends, and all that the root and `files` import when it is first asked for."""

from PyInstaller.utils.hooks import can_import_module, collect_submodules

PROGRAM = ("mcast_fast.cli", "mcast_fast.__main__", "mcast_fast._pyinstaller")  # the command line has a hook of its own
OPTIONAL = (
    *("compression.zstd", "backports.zstd"),
    *("prometheus_client.core", "prometheus_client.exposition", "prometheus_client.openmetrics.exposition"),
)

hiddenimports = collect_submodules("mcast_fast", filter=lambda name: not name.startswith(PROGRAM))
hiddenimports += [name for name in OPTIONAL if can_import_module(name)]
