"""The program `mcast-fast`, also as `python -m mcast_fast`."""

import sys

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


def main() -> None:
    """Run the command line; without its libraries say what to install, and exit 2."""
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
