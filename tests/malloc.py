"""What glibc's malloc(3) says that it has given out."""

import ctypes


class Allocated(ctypes.Structure):
    """struct mallinfo2 (mallinfo(3))."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


def allocated() -> int:
    """How many bytes; 0 where another malloc has taken its place, as that of AddressSanitizer does.

    AttributeError: it is not glibc, or one before 2.33."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = Allocated
    found = ask()
    return int(found.uordblks + found.hblkhd)
