"""Whether an installed wheel works, in seconds: both backends, or those named, receive what they send."""

import os
import subprocess
import sys
import tempfile

CHECK = """
import sys
import mcast_fast

assert mcast_fast.backend == sys.argv[1], mcast_fast.backend
assert "site-packages" in mcast_fast.__file__, mcast_fast.__file__
"""


def main() -> int:
    """0 when all is well: each backend loads from the installed wheel, and its demo loses nothing."""
    backends = sys.argv[1:] or ["fast", "pure"]
    with tempfile.TemporaryDirectory() as elsewhere:  # `-c` and `-m` look for modules here first
        for backend in backends:
            where = {"env": os.environ | {"MCAST_FAST_BACKEND": backend}, "cwd": elsewhere}
            subprocess.run([sys.executable, "-c", CHECK, backend], check=True, **where)
            subprocess.run([sys.executable, "-m", "mcast_fast", "demo", "--count", "1000"], check=True, **where)
    return 0


sys.exit(main())
