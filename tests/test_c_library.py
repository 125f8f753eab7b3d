"""The C library's own tests, compiled and run without an interpreter; `.ci/c_library` runs them under sanitizers."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
LIBRARY = ROOT.parent / "src" / "mcast_fast" / "_core" / "c"
WRAPPED = "-Wl,--wrap=setsockopt,--wrap=getsockopt"


@pytest.mark.long
@pytest.mark.needs("cc", "ring")
@pytest.mark.parametrize("test", sorted((ROOT / "c").glob("test_*.c")), ids=lambda path: path.stem)
def test_in_c(test, tmp_path):
    program = tmp_path / test.stem
    sources = [test, ROOT / "c" / "wrapped.c", *sorted(LIBRARY.glob("*.c"))]
    options = ["-std=gnu11", "-O1", "-D_GNU_SOURCE", f"-I{LIBRARY}", WRAPPED]
    subprocess.run(["cc", *options, *map(str, sources), "-lpthread", "-o", str(program)], check=True)
    done = subprocess.run([str(program)], check=False, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
