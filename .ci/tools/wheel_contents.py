"""Whether a wheel (argument 1) holds the package's Python files, their contracts, an extension a .pyx, and no more."""

import sys
import zipfile
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
KINDS = (".py", ".pyi", ".typed")
OF_THE_WHEEL = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")


def wanted(wheel: Path) -> set[str]:
    """What a wheel of this name must hold."""
    name, version, python, *_, platform = wheel.stem.split("-")
    package = SOURCE / "mcast_fast"
    found = {path.relative_to(SOURCE).as_posix() for path in package.rglob("*") if path.suffix in KINDS}
    found |= {f"{name}-{version}.dist-info/{one}" for one in OF_THE_WHEEL}
    if platform != "any":
        suffix = f".cpython-{python.removeprefix('cp')}-x86_64-linux-{'musl' if 'musl' in platform else 'gnu'}.so"
        found |= {path.relative_to(SOURCE).with_suffix(suffix).as_posix() for path in package.rglob("*.pyx")}
    return found


def main() -> int:
    """0 when the wheel is right; what it lacks, and what it has too much, is printed."""
    wheel = Path(sys.argv[1])
    with zipfile.ZipFile(wheel) as archive:
        held = {one.filename for one in archive.infolist() if not one.is_dir()}
    right = wanted(wheel)
    for sign, names in (("lacks", right - held), ("has besides", held - right)):
        for one in sorted(names):
            print(f"{wheel.name} {sign} {one}", file=sys.stderr)
    print(f"{wheel.name}: {len(held)} files")
    return int(held != right)


sys.exit(main())
