"""Batches as rows of CSV (c/csv.h)."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from "csv.h":
    size_t MCAST_CSV_ROW
    size_t MCAST_CSV_ADDRESS
    unsigned char *mcast_csv_number(unsigned char *to, uint64_t value) nogil
    unsigned char *mcast_csv_time(unsigned char *to, int64_t time) nogil
    unsigned char *mcast_csv_text(unsigned char *to, const char *text, size_t size) nogil
    unsigned char *mcast_csv_rest(unsigned char *to, const mcast_record *record, const unsigned char *payload) nogil

cdef enum:
    CACHED = 64  # addresses whose text is at hand

cdef struct AddressText:
    uint8_t packed[16]
    uint8_t size  # 0: none yet
    char text[46]


cdef const AddressText *text_of_address(AddressText *cache, const uint8_t *packed) except NULL:
    cdef uint64_t high, low
    cdef bytes text
    memcpy(&high, packed, 8)
    memcpy(&low, packed + 8, 8)
    cdef AddressText *found = &cache[((high ^ low) * <uint64_t>0x9e3779b97f4a7c15) >> 58]
    if found.size == 0 or memcmp(found.packed, packed, 16) != 0:
        text = plain_text(PyBytes_FromStringAndSize(<const char *>packed, 16)).encode()
        memcpy(found.packed, packed, 16)
        memcpy(found.text, <const char *>text, <size_t>len(text))
        found.size = <uint8_t>len(text)
    return found


cdef unsigned char *csv_row(unsigned char *to, const mcast_record *record, const unsigned char *arena, bytes interface,
                            AddressText *cache) except NULL:
    cdef const AddressText *address
    to = mcast_csv_time(to, record.timestamp)
    to[0] = 44  # a comma
    to = mcast_csv_text(to + 1, interface, <size_t>len(interface))
    to[0] = 44
    address = text_of_address(cache, record.source)
    to = mcast_csv_text(to + 1, address.text, address.size)
    to[0] = 44
    to = mcast_csv_number(to + 1, record.source_port)
    to[0] = 44
    address = text_of_address(cache, record.group)
    to = mcast_csv_text(to + 1, address.text, address.size)
    return mcast_csv_rest(to, record, arena + record.offset)


def csv_rows(Batch batch not None, texts):
    """The packets as rows of CSV, in UTF-8, with the columns of `files._convert`; `texts` gives the field of an
    interface by its index."""
    cdef AddressText cache[CACHED]
    cdef size_t room = 0, longest = 0
    cdef Py_ssize_t i
    cdef uint32_t index = 0
    cdef bytes interface = b""
    cdef dict fields = {}
    cdef int pinned
    cdef const unsigned char *arena
    cdef unsigned char *to
    cdef unsigned char *begin
    memset(cache, 0, sizeof(cache))
    for i in range(batch.count):
        room += 2 * <size_t>batch.first[i].length
        if (i == 0 or index != batch.first[i].interface_index) and batch.first[i].interface_index not in fields:
            fields[batch.first[i].interface_index] = texts(batch.first[i].interface_index)
        index = batch.first[i].interface_index
    for interface in fields.values():
        longest = max(longest, <size_t>len(interface))
    room += <size_t>batch.count * (MCAST_CSV_ROW + 2 * MCAST_CSV_ADDRESS + longest)
    cdef bytearray made = bytearray()
    PyByteArray_Resize(made, <Py_ssize_t>room)
    begin = to = <unsigned char *>PyByteArray_AS_STRING(made)
    arena = arena_in_place(batch, &pinned)
    try:
        for i in range(batch.count):
            if i == 0 or index != batch.first[i].interface_index:
                index = batch.first[i].interface_index
                interface = fields[index]
            to = csv_row(to, &batch.first[i], arena, interface, cache)
    finally:
        arena_left(batch, pinned)
    PyByteArray_Resize(made, <Py_ssize_t>(to - begin))
    return made
