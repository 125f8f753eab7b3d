"""An exchange feed on two legs, A and B: each message once, from whichever leg brought it first.

python examples/two_legs.py 10.0.0.5@232.1.1.1%eth0:5000 10.0.1.5@232.1.1.2%eth1:5000

The first eight bytes of a payload are taken for its sequence number, big-endian.
"""

import sys

import mcast_fast as mcast

wanted = {"A": sys.argv[1], "B": sys.argv[2]}
first = {"A": 0, "B": 0}
expected = None

with mcast.Receiver(*wanted.values()) as rx:
    leg_of = {(mcast.Group.parse(text).address, mcast.Group.parse(text).port): leg for leg, text in wanted.items()}
    for batch in rx:
        for packet in batch:
            number = int.from_bytes(packet.view[:8], "big")
            if expected is not None and number < expected:
                continue  # the other leg was first
            if expected is not None and number > expected:
                print(f"lost on both legs: {expected} to {number - 1}")
            expected = number + 1
            first[leg_of[packet.group, packet.port]] += 1
            if number % 100_000 == 0:
                print(f"{number}: first on {first}, drops here {rx.stats.dropped_socket}")
