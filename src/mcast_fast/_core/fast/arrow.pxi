"""Batches for other libraries through the Arrow C interfaces (c/arrow.h): arrays and streams."""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EINVAL, EIO, ENOMEM
from cpython.object cimport PyObject
from libc.stdlib cimport free, malloc

cdef extern from *:
    """
    static void mcast_give_memory(void *bytes, size_t capacity)
    {
        mcast_pool_give(&mcast_shared_pool, bytes, capacity);
    }
    """
    void mcast_give_memory(void *bytes, size_t capacity) noexcept nogil

cdef extern from "Python.h":
    int Py_IsInitialized() nogil

cdef struct Stream:  # what an exported stream holds
    PyObject *batches  # an iterator, with one reference
    char *error  # the last one, UTF-8


cdef mcast_shared *shared_arena(Batch batch) except? NULL:
    """The arena as memory that arrays may keep; NULL: it is a ring's, and must be copied."""
    cdef Batch owner = batch
    while owner.owner is not None:
        owner = owner.owner
    if owner.reference != NULL:
        return NULL
    with cython.critical_section(owner):
        if owner.shared == NULL:
            owner.shared = mcast_shared_new(owner.data_memory.bytes, owner.data_memory.capacity, mcast_give_memory)
    if owner.shared == NULL:
        raise MemoryError("no memory for an Arrow array")
    return owner.shared


cdef int export_batch(Batch batch, ArrowArray *array) except -1:
    """Fills in the array of a batch: a struct with a column for each field of the record, and the payloads."""
    cdef mcast_shared *shared = shared_arena(batch)
    cdef mcast_arrow *arrow
    cdef const unsigned char *arena
    cdef int pinned
    cdef size_t at
    cdef bytes text
    with nogil:
        arena = arena_in_place(batch, &pinned)
        arrow = mcast_arrow_new(batch.first, <size_t>batch.count, arena, shared)
        arena_left(batch, pinned)
    if arrow == NULL:
        raise MemoryError("no memory for an Arrow array")
    try:
        for at in range(mcast_arrow_interfaces(arrow)):
            index = mcast_arrow_interface(arrow, at)
            text = utf8(batch.names.get(index, str(index) if index else "")).encode()
            if mcast_arrow_add_name(arrow, text, <size_t>len(text)) != 0:
                raise MemoryError("no memory for an Arrow array")
    except BaseException:
        mcast_arrow_free(arrow)
        raise
    mcast_arrow_export(arrow, array)
    return 0


# ---- capsules: a consumer moves the structure out, and marks it released ----


cdef void free_schema(object capsule) noexcept:
    cdef ArrowSchema *schema = <ArrowSchema *>PyCapsule_GetPointer(capsule, "arrow_schema")
    if schema.release != NULL:
        schema.release(schema)
    free(schema)


cdef void free_array(object capsule) noexcept:
    cdef ArrowArray *array = <ArrowArray *>PyCapsule_GetPointer(capsule, "arrow_array")
    if array.release != NULL:
        array.release(array)
    free(array)


cdef void free_stream(object capsule) noexcept:
    cdef ArrowArrayStream *stream = <ArrowArrayStream *>PyCapsule_GetPointer(capsule, "arrow_array_stream")
    if stream.release != NULL:
        stream.release(stream)
    free(stream)


cdef void *new_structure(size_t size) except NULL:
    cdef void *structure = malloc(size)
    if structure == NULL:
        raise MemoryError("no memory for an Arrow structure")
    memset(structure, 0, size)
    return structure


cdef tuple export_arrow(Batch batch):
    """(schema, array) of a batch, as the capsules of `__arrow_c_array__`."""
    cdef void *schema = new_structure(sizeof(ArrowSchema))
    cdef object schema_capsule = PyCapsule_New(schema, "arrow_schema", free_schema)
    if mcast_arrow_schema(<ArrowSchema *>schema) != 0:
        raise MemoryError("no memory for an Arrow schema")
    cdef void *array = new_structure(sizeof(ArrowArray))
    cdef object array_capsule = PyCapsule_New(array, "arrow_array", free_array)
    export_batch(batch, <ArrowArray *>array)
    return schema_capsule, array_capsule


# ---- streams: their callbacks need Python, and refuse when it is finalised ----


cdef void keep_error(Stream *stream, str text) noexcept:
    cdef bytes encoded = text.encode("utf-8", "replace")
    free(stream.error)
    stream.error = <char *>malloc(<size_t>len(encoded) + 1)
    if stream.error != NULL:
        memcpy(stream.error, <const char *>encoded, <size_t>len(encoded) + 1)


cdef int next_with_gil(Stream *stream, ArrowArray *array) noexcept with gil:
    try:
        batch = next(<object>stream.batches, None)
        if batch is not None:
            export_batch(<Batch?>batch, array)
    except MemoryError:
        keep_error(stream, "no memory for an Arrow array")
        return ENOMEM
    except BaseException as error:
        keep_error(stream, f"{type(error).__name__}: {error}")
        return (getattr(error, "errno", None) or EIO) if isinstance(error, OSError) else EINVAL
    return 0


cdef int stream_next(ArrowArrayStream *stream, ArrowArray *array) noexcept nogil:
    array.release = NULL  # the end of the stream
    if not Py_IsInitialized():
        return EIO
    return next_with_gil(<Stream *>stream.private_data, array)


cdef int stream_schema(ArrowArrayStream *stream, ArrowSchema *schema) noexcept nogil:
    return 0 if mcast_arrow_schema(schema) == 0 else ENOMEM


cdef const char *stream_error(ArrowArrayStream *stream) noexcept nogil:
    return (<Stream *>stream.private_data).error


cdef void forget_with_gil(PyObject *batches) noexcept with gil:
    Py_DECREF(<object>batches)


cdef void stream_release(ArrowArrayStream *stream) noexcept nogil:
    cdef Stream *held = <Stream *>stream.private_data
    if Py_IsInitialized():  # else nothing can be done for an object: the process ends
        forget_with_gil(held.batches)
    free(held.error)
    free(held)
    stream.release = NULL


def arrow_stream(batches, requested_schema=None):
    """Batches of an iterator as the capsule of `__arrow_c_stream__`; all have one schema, so that none is requested.
    FeatureError without what the feature "arrow" needs."""
    cdef ArrowArrayStream *stream = <ArrowArrayStream *>new_structure(sizeof(ArrowArrayStream))
    capsule = PyCapsule_New(stream, "arrow_array_stream", free_stream)
    cdef Stream *held = <Stream *>new_structure(sizeof(Stream))
    iterator = iter(batches)
    Py_INCREF(iterator)
    held.batches = <PyObject *>iterator
    stream.get_schema = stream_schema
    stream.get_next = stream_next
    stream.get_last_error = stream_error
    stream.release = stream_release
    stream.private_data = held
    return capsule
