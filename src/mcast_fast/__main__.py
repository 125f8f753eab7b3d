"""The program `mcast-fast`, also as `python -m mcast_fast`."""

import os
import sys
from pathlib import Path

COMMAND_LINE_NEEDS = ("click", "rich")  # the extra [cli]
INTERRUPTED = 130  # as cli/codes.py has it


def _print_version() -> bool:
    """Without the command line's libraries, which are most of the time it would take.

    Returns:
        False where that cannot be written: the command line says why.
    """
    from mcast_fast import _core
    from mcast_fast._version import version_text

    try:
        print(version_text(_core.backend), flush=True)
    except OSError:
        return False
    return True


def _open_what_is_closed() -> None:
    """Have the standard streams lead nowhere where the caller closed them; sockets would get their descriptors."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115 - for good


def main() -> None:
    """Run the command line; without its libraries say what to install, and exit 2."""
    _open_what_is_closed()
    try:
        if sys.argv[1:] == ["--version"] and _print_version():
            return
        from mcast_fast.cli import program

        program(prog_name="mcast-fast")
    except KeyboardInterrupt:  # while it starts
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in COMMAND_LINE_NEEDS:
            raise
        sys.stderr.write(
            f"mcast-fast: the command line needs {missing}, which is not installed; "
            "install it with: pip install 'mcast-fast[cli]'\n"
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
