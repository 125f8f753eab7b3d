# cython: language_level=3, freethreading_compatible=True
"""Many datagrams a system call, without the GIL."""

import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t


from mcast_fast._core.layout import Feature

cdef extern from "platform.h":
    ctypedef unsigned int socklen_t
    struct sockaddr_storage:
        pass
    struct iovec:
        void *iov_base
        size_t iov_len
    enum:
        MCAST_SEND_MAX
    int mcast_send_many(int fd, const sockaddr_storage *address, socklen_t size, const iovec *payloads,
                        unsigned count) nogil
    socklen_t mcast_destination(sockaddr_storage *address, const uint8_t *packed, int version, int port,
                                uint32_t scope) nogil

FEATURES = {"batched_send": Feature(True, "")}


def send_batch(socket, payloads, Py_ssize_t start, bytes group, int port, uint32_t interface):
    """Send payloads[start:], a sequence of bytes-like objects, to a packed group without waiting; how many left.

    Fewer than all is no error: the send buffer was full, or the next one failed and the next call tells why
    (sendmmsg(2)). Raises OSError as the system gave it when not even one left (BlockingIOError: the send buffer is
    full)."""
    cdef int fd = socket.fileno(), version = 4 if len(group) == 4 else 6, sent = 0
    cdef unsigned count = max(0, min(<Py_ssize_t>MCAST_SEND_MAX, len(payloads) - start)), held = 0
    cdef Py_buffer buffers[256]
    cdef iovec vectors[256]
    cdef sockaddr_storage address
    if len(group) not in (4, 16):
        raise ValueError("the group is a packed address")
    cdef socklen_t size = mcast_destination(&address, <const uint8_t *><const char *>group, version, port, interface)
    try:
        while held < count:
            PyObject_GetBuffer(payloads[start + held], &buffers[held], PyBUF_SIMPLE)
            vectors[held].iov_base = buffers[held].buf
            vectors[held].iov_len = <size_t>buffers[held].len
            held += 1
        if count:
            with nogil:
                sent = mcast_send_many(fd, &address, size, vectors, count)
    finally:
        while held:
            held -= 1
            PyBuffer_Release(&buffers[held])
    if sent < 0:
        raise OSError(-sent, os.strerror(-sent))
    return sent
