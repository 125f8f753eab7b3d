"""Filters of C made of rows of Python: (group, interface, exclude, sources), as `Slots.accept` takes them."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy


cdef int open_filter(mcast_filter *filter, list rows) except -1:
    """Makes a filter of these rows, which whoever calls this frees; ValueError, MemoryError."""
    if any(len(address) != 16 for group, _, _, sources in rows for address in (group, *sources)):
        raise ValueError("groups and sources are packed addresses of 16 bytes")
    if mcast_filter_open(filter, len(rows), sum(len(sources) for _, _, _, sources in rows)) != 0:
        raise MemoryError("no memory for a filter")
    try:
        return fill_filter(filter, rows)
    except BaseException:
        mcast_filter_free(filter)
        raise


cdef int fill_filter(mcast_filter *filter, list rows) except -1:
    """Copies rows, whose lengths are checked, into a filter that has room for them."""
    cdef mcast_entry entry
    cdef bytes group, source
    cdef uint32_t at = 0
    for group, interface, exclude, sources in rows:
        memcpy(entry.group, <const char *>group, 16)
        entry.interface_index = interface
        entry.exclude = exclude
        entry.first_source = at
        entry.sources = len(sources)
        for source in sources:
            memcpy(&filter.sources[at][0], <const char *>source, 16)
            at += 1
        mcast_filter_add(filter, &entry)
    return 0
