"""An exchange feed on two legs, A and B: each message once and in order, from whichever leg brought it.

python examples/two_legs.py moldudp64 10.0.0.5@232.1.1.1%eth0:5000 10.0.1.5@232.1.1.2%eth1:5000

Legs are groups, or capture files of them. What one leg lost is covered by the other; what both lost is reported.
"""

import contextlib
import sys
from pathlib import Path

import mcast_fast as mcast
from mcast_fast import sequence

form, *texts = sys.argv[1:]

with contextlib.ExitStack() as stack:
    legs: list[mcast.Source] = []
    for text in texts:
        source = mcast.open(text) if Path(text).is_file() else mcast.Receiver(text)
        stack.callback(source.close)
        legs.append(source)
    feed = stack.enter_context(sequence.Arbiter(legs, form, hold="50ms"))
    with contextlib.suppress(KeyboardInterrupt):
        shown = 0
        for _ in feed:  # batches of packets, each once
            stats = feed.stats
            if stats.unrecovered > shown:
                print(f"lost on all legs: {stats.unrecovered - shown}")
                shown = stats.unrecovered
    feed.flush()
    stats = feed.stats
    print(f"delivered {stats.delivered}, recovered {stats.recovered}, lost on all legs {stats.unrecovered}")
    for name, leg in zip("ABCDEFGH", stats.legs, strict=False):
        print(f"leg {name}: received {leg.received}, lost {leg.lost}, covered {leg.covered}, first {leg.first}")
