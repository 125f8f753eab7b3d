"""Compiles reference.c on the spot and calls it: the C receive loop, and the sender, at full speed or at a rate."""

import ctypes
import importlib.machinery
import importlib.util
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.network import Place

SOURCE = Path(__file__).with_name("reference.c")
COMMAND = ("-O2", "-Wall", "-Wextra", "-shared", "-fPIC")


def compiler_path() -> str:
    """The C compiler; OSError when there is none."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise OSError("the C reference needs a C compiler: install gcc or clang, or set CC")
    return compiler


@contextmanager
def compiled(source: Path = SOURCE, *options: str) -> Iterator[Path]:
    """The shared library, for as long as the block lasts."""
    compiler = compiler_path()
    with tempfile.TemporaryDirectory(prefix="mcast-benchmarks-") as directory:
        library = Path(directory, "reference.so")
        subprocess.run([compiler, *COMMAND, *options, "-o", library, source], check=True)
        yield library


@contextmanager
def compiled_program(source: Path) -> Iterator[Path]:
    """The program, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="mcast-benchmarks-") as directory:
        program = Path(directory, source.stem)
        subprocess.run([compiler_path(), "-O2", "-Wall", "-Wextra", "-o", program, source], check=True)
        yield program


@contextmanager
def compiled_extension(source: Path) -> Iterator[Path]:
    """A Cython module, compiled on the spot, for as long as the block lasts."""
    try:
        from Cython.Compiler.Main import compile as translate
    except ImportError:
        raise OSError("the Cython reference needs Cython: pip install cython") from None
    with tempfile.TemporaryDirectory(prefix="mcast-benchmarks-") as directory:
        translated = Path(directory, f"{source.stem}.c")
        if translate(str(source), output_file=str(translated)).num_errors:
            raise OSError(f"{source.name} does not compile")
        include = [f"-I{sysconfig.get_path('include')}", f"-I{source.parent}"]
        with compiled(translated, *include, "-Wno-unused-function") as library:
            yield library


def load_extension(library: str | Path, name: str) -> Any:
    """The Cython module of that name, from the library that compiled_extension() has made."""
    loader = importlib.machinery.ExtensionFileLoader(name, str(library))
    spec = importlib.util.spec_from_file_location(name, str(library), loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@cache
def load(library: str | Path) -> ctypes.CDLL:
    functions = ctypes.CDLL(str(library))
    functions.reference_open.argtypes = [ctypes.c_uint32, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint]
    functions.reference_open.restype = ctypes.c_void_p
    functions.reference_close.argtypes = [ctypes.c_void_p]
    functions.reference_close.restype = None
    functions.reference_receive.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_int64,
        ctypes.POINTER(ctypes.c_uint64),
    ]
    functions.reference_receive.restype = ctypes.c_int64
    functions.reference_batches.argtypes = [ctypes.c_void_p]
    functions.reference_batches.restype = ctypes.c_int64
    functions.reference_send.argtypes = [ctypes.c_int, ctypes.c_int64, *[ctypes.c_int] * 3, ctypes.c_double]
    functions.reference_send.restype = ctypes.c_int64
    return functions


def checked(answer: int, operation: str) -> int:
    """The C functions answer -errno."""
    if answer < 0:
        raise OSError(-answer, f"{operation}: {os.strerror(-answer)}")
    return answer


class Loop:
    """The recvmmsg loop over a socket that is already bound and joined, `slots` packets to a system call."""

    def __init__(self, library: str, sock: socket.socket, place: Place, slots: int) -> None:
        self._functions = load(library)
        self._socket = sock
        address = int.from_bytes(socket.inet_aton(place.group), "little")
        self._receiver = self._functions.reference_open(address, place.port, place.index, slots)
        if not self._receiver:
            raise MemoryError("no memory for the C receiver")

    def receive(self, limit: int) -> tuple[int, int, int]:
        """Packets, system calls and bytes: until the limit, or until the socket was quiet."""
        total = ctypes.c_uint64()
        packets = self._functions.reference_receive(self._receiver, self._socket.fileno(), limit, ctypes.byref(total))
        checked(packets, "recvmmsg")
        return packets, self._functions.reference_batches(self._receiver), total.value

    def close(self) -> None:
        self._functions.reference_close(self._receiver)
        self._socket.close()


def send(
    library: str, sock: socket.socket, count: int, size: int, segments: int, *, heap: int = 0, rate: float | None = None
) -> int:
    """Nanoseconds that sending `count` datagrams took, `segments` to a system call.

    `heap`: SPEAD packets in heaps of so many. `rate`: datagrams per second; None: full speed."""
    interval = 1e9 / rate if rate else 0.0
    return checked(load(library).reference_send(sock.fileno(), count, size, segments, heap, interval), "send")
