"""Rates, sizes and gaps of a feed by NumPy, without a Python object a packet.

python examples/columns.py 239.1.1.1%eth0:5000
"""

import sys

import numpy as np

import mcast_fast as mcast

with mcast.Receiver(*sys.argv[1:], buffer_size="64MiB") as rx:
    while True:
        batch = rx.collect(100_000, timeout=1.0)
        if not len(batch):
            print("nothing came within a second")
            continue
        records = np.asarray(batch)
        times = records["timestamp"]
        span = max(1, int(times[-1] - times[0]))
        print(
            f"{len(batch) / span * 1e9:,.0f} packets/s, {records['length'].sum() / span * 8:,.3f} Gbit/s, "
            f"largest gap {np.diff(times).max(initial=0) / 1e6:.3f} ms, dropped {int(records['dropped'].sum())}, "
            f"sources {len(np.unique(records['source'], axis=0))}"
        )
