"""The suite on an installed wheel, once a backend: tests of the project (argument 1), and not its source."""

import os
import subprocess
import sys
import tempfile

CHECK = "import mcast_fast, sys; print(mcast_fast.__file__); sys.exit(mcast_fast.backend != sys.argv[1])"


def main() -> int:
    """The worst exit code of both runs."""
    worst = 0
    with tempfile.TemporaryDirectory() as elsewhere:
        for backend in ("fast", "pure"):
            environment = os.environ | {"MCAST_FAST_BACKEND": backend}
            subprocess.run([sys.executable, "-c", CHECK, backend], env=environment, cwd=elsewhere, check=True)
            suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
            done = subprocess.run(suite, env=environment, cwd=sys.argv[1], check=False)
            worst = worst or done.returncode
    return worst


sys.exit(main())
