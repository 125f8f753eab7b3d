"""The C extension: MCAST_FAST_BUILD=yes insists on it, =no leaves it out, unset goes on without it, loudly."""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

WANTED = os.environ.get("MCAST_FAST_BUILD", "")
if WANTED not in ("", "yes", "no"):
    raise SystemExit(f"MCAST_FAST_BUILD={WANTED!r} is not one of: yes, no (or leave it unset)")
FAST, LIBRARY = Path("src/mcast_fast/_core/fast"), Path("src/mcast_fast/_core/c")
WINDOWS, OTHERS = (["/std:c11"], ["ws2_32", "iphlpapi"]), (["-O2", "-g0", "-D_GNU_SOURCE"], [])
FLAGS, LIBRARIES = WINDOWS if sys.platform == "win32" else OTHERS
FLAGS += os.environ.get("MCAST_FAST_CFLAGS", "").split()
SAY = """
*** mcast-fast: THE FAST BACKEND WAS NOT BUILT: {}
*** The pure Python backend is installed: the same behaviour, several times slower.
*** To build it, install a C compiler and Python's headers, set MCAST_FAST_BUILD=yes and run, in a source tree,
*** pip install --force-reinstall --no-deps . or else
*** pip install --force-reinstall --no-deps --no-cache-dir --no-binary mcast-fast mcast-fast"""


class BuildOrSay(build_ext):
    """Build the extension; when that fails and nobody insisted, go on without it and say so."""

    def run(self):
        """Cython to C, C to the extension."""
        try:
            from Cython.Build import cythonize

            for extension, made in zip(self.extensions, cythonize(self.extensions, include_path=["src"]), strict=True):
                extension.sources = made.sources
            super().run()
        except Exception as error:
            if WANTED == "yes":
                raise
            self.make_pure()
            print(SAY.format(error), file=sys.stderr)

    def make_pure(self):
        """Go on without the extension; a wheel is tagged py3-none-any, lest it be cached as one that has it."""
        for extension in self.extensions:
            if not self.inplace:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)  # of an earlier build
        self.extensions[:] = []
        if wheel := self.distribution.get_command_obj("bdist_wheel", create=False):
            wheel.root_is_pure = True  # it looked for extensions before this command ran


DEPENDS = [str(path) for path in [*LIBRARY.glob("*.h"), *FAST.glob("*.pxi")]]
PARTS = sorted(str(path) for path in LIBRARY.glob("*.c"))
OPTIONS = {"include_dirs": [str(LIBRARY)], "extra_compile_args": FLAGS, "depends": DEPENDS, "libraries": LIBRARIES}
MODULES = {f"mcast_fast._core.fast.{path.stem}": str(path) for path in sorted(FAST.glob("*.pyx"))}
EXTENSIONS = [Extension(name, [source, *PARTS], **OPTIONS) for name, source in MODULES.items()]
setup(ext_modules=[] if WANTED == "no" else EXTENSIONS, cmdclass={"build_ext": BuildOrSay})
