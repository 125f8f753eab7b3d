"""Nobody makes an object from Python that only C can fill in: `Packet.__new__(Packet)` would have no record to read."""

cdef extern from *:
    """
    static PyObject *mcast_refuse(PyTypeObject *type, PyObject *args, PyObject *kwargs)
    {
        PyObject *texts = PyDict_GetItemString(type->tp_dict, "_made_by"); /* borrowed */
        (void)args;
        (void)kwargs;
        if (texts)
            PyErr_SetObject(PyExc_TypeError, texts);
        else
            PyErr_Format(PyExc_TypeError, "%s is not made by calling it", type->tp_name);
        return NULL;
    }

    static void mcast_seal(PyTypeObject *type)
    {
        type->tp_new = mcast_refuse;  /* Cython calls the one that it made directly */
        type->tp_vectorcall = NULL;
        PyType_Modified(type);
    }

    /* Where it is exported, in place of the extension that it is in; `name` lives as long as the process. */
    static int mcast_export(PyTypeObject *type, const char *name, PyObject *module)
    {
        if (PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE))
            return PyObject_SetAttrString((PyObject *)type, "__module__", module);
        type->tp_name = name;
        PyType_Modified(type);
        return 0;
    }
    """
    void mcast_seal(type one)
    int mcast_export(type one, const char *name, object module) except -1

# They are made by calling them, with arguments that they check.
OPEN = ("Slots", "Transmitter", "Decoder", "Encoder", "Run", "Tracker", "Summary", "Placer", "Frame", "Arbiter",
        "StreamTable")


def _seal():
    for name, one in list(globals().items()):
        if isinstance(one, type) and one.__module__ == __name__ and name not in OPEN:
            mcast_seal(one)


_seal()
mcast_export(Batch, b"mcast_fast.Batch", "mcast_fast")
mcast_export(Packet, b"mcast_fast.Packet", "mcast_fast")
