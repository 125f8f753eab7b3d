"""Which process this is, without a system call: `number` of a forked child is not that of its parent.

Rules of this module: no imports of ours; every other module may import it.
"""

import os

number = 0  # grows by one in each child; an object keeps the number that it was opened under


def _forked() -> None:
    global number
    number += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
