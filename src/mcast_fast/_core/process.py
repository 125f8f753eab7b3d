"""Which process this is: an object belongs to the process that opened it; a forked child must not touch what it shares.

Rules of this module: no imports of ours. `number` counts the forks on the way here; comparing it costs no system call.
"""

import os

number = 0


def _count() -> None:
    global number
    number += 1


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_count)
