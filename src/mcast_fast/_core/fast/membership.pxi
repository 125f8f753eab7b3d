"""Membership calls by interface index, and this system's socket options by name."""

from libc.stdint cimport uint8_t, uint32_t

from mcast_fast._core.layout import Feature
from mcast_fast.errors import os_error

cdef extern from "platform.h":
    ctypedef struct mcast_option:
        const char *name
        int level
        int number
    const mcast_option mcast_options[]
    int mcast_has_option(const mcast_option *option) nogil
    int mcast_set_option(int fd, int level, int number, int value) nogil
    const char *MCAST_SYSTEM
    ctypedef struct mcast_missing:
        const char *feature
        const char *reason
    const mcast_missing mcast_missing_features[]
    int mcast_is_missing(const mcast_missing *row) nogil
    enum:
        MCAST_JOIN
        MCAST_LEAVE
        MCAST_JOIN_SOURCE
        MCAST_LEAVE_SOURCE
        MCAST_BLOCK
        MCAST_UNBLOCK
    int mcast_membership(int fd, int step, int version, uint32_t interface_index, const uint8_t *group,
                         const uint8_t *source) nogil
    int mcast_set_filter(int fd, int version, uint32_t interface_index, const uint8_t *group, int exclude,
                         const uint8_t *sources, size_t count) nogil
    int mcast_get_filter(int fd, int version, uint32_t interface_index, const uint8_t *group, int *exclude,
                         uint8_t *sources, size_t room) nogil
    int mcast_send_interface(int fd, uint32_t interface_index, const uint8_t *source) nogil


cdef enum:
    MOST_SOURCES = 4096  # that are read back: more than a system lets one socket hold


cdef dict _options():
    found = {}
    cdef int row = 0
    while mcast_options[row].name != NULL:
        if mcast_has_option(&mcast_options[row]):
            found[mcast_options[row].name.decode()] = (mcast_options[row].level, mcast_options[row].number)
        row += 1
    return found


OPTIONS = _options()
SYSTEM = MCAST_SYSTEM.decode()


def missing():
    """Why features are off now, by name: on Linux a sandbox may come after the import."""
    cdef dict found = {}
    cdef int row = 0
    while mcast_missing_features[row].feature != NULL:
        if mcast_is_missing(&mcast_missing_features[row]):
            found[mcast_missing_features[row].feature.decode()] = mcast_missing_features[row].reason.decode()
        row += 1
    return found


MISSING = missing()


def features_of(*names):
    """These features of the compiled backend: on, but for those that this system's header names as missing."""
    return {name: Feature(name not in MISSING, MISSING.get(name, "")) for name in names}


def set_option(socket, str name, int value):
    """Set an integer option of OPTIONS by name. Raises OSError as the system gave it."""
    level, number = OPTIONS[name]
    cdef int status = mcast_set_option(socket.fileno(), level, number, value)
    if status < 0:
        raise os_error(-status)


cdef _step(socket, int step, uint32_t interface, bytes group, bytes source):
    cdef int fd = socket.fileno(), status
    cdef int version = 4 if len(group) == 4 else 6
    if len(group) not in (4, 16) or (source is not None and len(source) != len(group)):
        raise ValueError("group and source are packed addresses of one family")
    cdef const uint8_t *the_group = <const uint8_t *><const char *>group
    cdef const uint8_t *the_source = NULL
    if source is not None:
        the_source = <const uint8_t *><const char *>source
    with nogil:
        status = mcast_membership(fd, step, version, interface, the_group, the_source)
    if status < 0:
        raise os_error(-status)


def join(socket, interface, group, source=None):
    """Join a group on an interface, or one source of it (RFC 3678: MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP).

    `interface` is an index; addresses are packed, 4 or 16 bytes. Raises OSError as the system gave it."""
    _step(socket, MCAST_JOIN if source is None else MCAST_JOIN_SOURCE, interface, group, source)


def leave(socket, interface, group, source=None):
    """Leave a group, or one source of it (MCAST_LEAVE_GROUP, MCAST_LEAVE_SOURCE_GROUP)."""
    _step(socket, MCAST_LEAVE if source is None else MCAST_LEAVE_SOURCE, interface, group, source)


def block(socket, interface, group, source):
    """Hear this source of a joined group no more (MCAST_BLOCK_SOURCE)."""
    _step(socket, MCAST_BLOCK, interface, group, source)


def unblock(socket, interface, group, source):
    """Hear a blocked source of a joined group again (MCAST_UNBLOCK_SOURCE)."""
    _step(socket, MCAST_UNBLOCK, interface, group, source)


def set_filter(socket, interface, group, exclude, sources):
    """Set the whole filter of a group that the socket holds, in one step (MCAST_MSFILTER, RFC 3678 5.2.2)."""
    cdef int fd = socket.fileno(), version = 4 if len(group) == 4 else 6, mode = bool(exclude), status
    cdef uint32_t index = interface
    cdef bytes the_group = group
    cdef bytes packed = b"".join(sources)
    cdef size_t count = len(packed) // (4 if version == 4 else 16)
    if len(the_group) not in (4, 16) or any(len(source) != len(the_group) for source in sources):
        raise ValueError("group and source are packed addresses of one family")
    cdef const uint8_t *group_bytes = <const uint8_t *><const char *>the_group
    cdef const uint8_t *source_bytes = <const uint8_t *><const char *>packed
    with nogil:
        status = mcast_set_filter(fd, version, index, group_bytes, mode, source_bytes, count)
    if status < 0:
        raise os_error(-status)


def get_filter(socket, interface, group):
    """(exclude, sources) as the system holds them for a group of this socket (MCAST_MSFILTER); sources packed, sorted.

    Raises OSError: EADDRNOTAVAIL when the socket does not hold the group."""
    cdef int fd = socket.fileno(), version = 4 if len(group) == 4 else 6, exclude = 0, count
    cdef uint32_t index = interface
    cdef bytes the_group = group
    if len(the_group) not in (4, 16):
        raise ValueError("the group is a packed address")
    cdef Py_ssize_t width = len(the_group), at
    cdef uint8_t sources[MOST_SOURCES * 16]
    cdef const uint8_t *group_bytes = <const uint8_t *><const char *>the_group
    with nogil:
        count = mcast_get_filter(fd, version, index, group_bytes, &exclude, sources, MOST_SOURCES)
    if count < 0:
        raise os_error(-count)
    found = [(<const char *>sources)[at * width:(at + 1) * width] for at in range(min(count, MOST_SOURCES))]
    return bool(exclude), tuple(sorted(found))


def set_send_interface(socket, interface, source):
    """Send IPv4 multicast by this interface and from this packed source (zeros: the system picks one)."""
    cdef bytes packed = source
    if len(packed) != 4:
        raise ValueError("the source is a packed IPv4 address")
    cdef int status = mcast_send_interface(socket.fileno(), interface, <const uint8_t *><const char *>packed)
    if status < 0:
        raise os_error(-status)
