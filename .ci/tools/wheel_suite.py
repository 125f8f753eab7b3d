"""The suite on an installed wheel, once per backend: pytest's arguments (2…) in the project (1), not on its source."""

import os
import signal
import subprocess
import sys

CHECK = """
import mcast_fast, os, sys
print(mcast_fast.backend, "of", mcast_fast.__file__)
sys.exit(mcast_fast.backend != sys.argv[1] or mcast_fast.__file__.startswith(os.getcwd() + os.sep))
"""
SUITE = ("-m", "pytest", "-q", "-rs", "--color=no", "-p", "no:cacheprovider", "-m", "")


def main() -> int:
    """The worst exit code of both runs."""
    worst = 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored, and tests send it
    for backend in ("fast", "pure"):
        environment = os.environ | {"MCAST_FAST_BACKEND": backend}
        where = {"env": environment, "cwd": sys.argv[1]}  # `-c` and `-m` look for modules in the same places
        subprocess.run([sys.executable, "-c", CHECK, backend], check=True, **where)
        done = subprocess.run([sys.executable, *SUITE, *sys.argv[2:]], check=False, **where)
        worst = worst or done.returncode
    return worst


sys.exit(main())
