"""What pytest skipped, held against the list in the docs: `skips.py DOCS OUTPUT…`, outputs of `pytest -rs`.

The list is the first column of the table behind the line `<!-- skips -->`. It names every feature, program or module
that was missing, and nothing that was not.
"""

import re
import sys
from pathlib import Path

# A test of what happens without a feature that is there misses nothing.
SKIPPED = re.compile(
    r"^SKIPPED \[\d+\] \S+: (?!.* it is there$)(?:feature |program |could not import ')?([^:'\n]+)", re.MULTILINE
)
OF_THE_MACHINE = {"large buffers"}  # net.core.rmem_max, which is no answer of the platform
ROW = re.compile(r"^\| ((?:`[^`|]+`(?:, )?)+) \|", re.MULTILINE)

docs, *outputs = map(Path, sys.argv[1:])
skipped = {found.partition(".")[0] for path in outputs for found in SKIPPED.findall(path.read_text())} - OF_THE_MACHINE
table = docs.read_text().partition("<!-- skips -->\n")[2].partition("\n\n")[0]
listed = {name for row in ROW.findall(table) for name in re.findall("`([^`]+)`", row)}
if not skipped or skipped != listed:
    sys.exit(f"skips: not in {docs}: {sorted(skipped - listed)}; there, and not skipped: {sorted(listed - skipped)}")
print(f"skips: {len(skipped)} names, all in {docs}")
