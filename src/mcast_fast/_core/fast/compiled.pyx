# cython: language_level=3, freethreading_compatible=True
"""The compiled core in one extension: five would carry Cython's own code five times, 20 KB of a wheel each.

Its parts are the files named here, and the modules of their names hand out what is theirs."""

include "records.pxi"
include "membership.pxi"
include "views.pxi"
include "arrow.pxi"
include "slots.pxi"
include "send.pxi"
include "files.pxi"
