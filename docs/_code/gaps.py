"""A histogram of the gaps between the packets of feed.pcapng."""

import matplotlib.pyplot as plt
import numpy as np

import mcast_fast as mcast

with mcast.open("feed.pcapng") as file:
    times = np.concatenate([np.asarray(batch)["timestamp"] for batch in file])
gaps = np.diff(times) / 1000  # µs
print(f"{len(times):,} packets, median gap {np.median(gaps):.1f} µs, longest {gaps.max():,.1f} µs")
plt.hist(gaps, bins=200, log=True)
plt.xlabel("gap between packets, µs")
plt.ylabel("packets")
plt.savefig("gaps.png")
