# cython: language_level=3, freethreading_compatible=True
# cython: binding=False, embedsignature=True, embedsignature.format=clinic
# Without binding a method checks what it is called for: `Batch.payloads(None)` would read memory of nobody.
"""The compiled core in one extension: five would carry Cython's own code five times, 20 KB of a wheel each.

Its parts are the files named here, and the modules of their names hand out what is theirs."""

include "records.pxi"
include "membership.pxi"
include "views.pxi"
include "packets.pxi"
include "columns.pxi"
include "arrow.pxi"
include "csv.pxi"
include "filters.pxi"
include "sequence.pxi"
include "matching.pxi"
include "arbiter.pxi"
include "placement.pxi"
include "receiver.pxi"
include "state.pxi"
include "slots.pxi"
include "send.pxi"
include "summary.pxi"
include "files.pxi"
include "monitor.pxi"
include "merge.pxi"
include "seal.pxi"
