"""The program `mcast-fast`, also as `python -m mcast_fast`."""

import sys

COMMAND_LINE_NEEDS = ("click", "rich")  # the extra [cli]


def main() -> None:
    """Run the command line; without its libraries say what to install, and exit 2."""
    try:
        from mcast_fast.cli import program

        program(prog_name="mcast-fast")
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
