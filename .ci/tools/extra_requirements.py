"""Print what extras of pyproject.toml require, without this package itself: `extra_requirements.py EXTRA…`."""

import sys
import tomllib
from pathlib import Path

extras = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
wanted = {one for name in sys.argv[1:] for one in extras[name] if not one.startswith("mcast-fast")}
print("\n".join(sorted(wanted)))
