"""What a host can hold: the largest rate of packets that arrive without loss, found by trials.

`search` decides and `trial` is data, without I/O; `load` sends, `counting` receives, `listening` and `remote` are the
two ends of a measurement between hosts, `measure` runs them.
"""
