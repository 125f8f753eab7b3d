"""A service that systemd gives its socket: prints how many packets each batch has, and ends by SIGTERM.

    systemd-socket-activate --datagram --listen=0.0.0.0:5000 --fdname=feed python activated.py 239.1.1.1%eth0

With mcast-fast-activated.service and .socket the manager keeps the socket open: what comes while the service is
restarted waits in it.
"""

import os
import signal
import sys

import mcast_fast as mcast

FIRST = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)


def listening() -> dict[str, int]:
    """The descriptors that systemd gave this process, by their names (FileDescriptorName=)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    numbers = range(FIRST, FIRST + int(os.environ.get("LISTEN_FDS", "0")))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return dict(zip(names, numbers, strict=False))


def main() -> None:
    """Receive the groups of the command line by the socket that is named feed."""
    descriptor = listening().get("feed")
    if descriptor is None:
        sys.exit("no socket named feed was given: start this by systemd, or by systemd-socket-activate --fdname=feed")
    before = mcast.host_counters()
    with mcast.Receiver(*sys.argv[1:], fd=descriptor) as rx:
        os.close(descriptor)  # the receiver has a duplicate
        signal.signal(signal.SIGTERM, lambda *_: rx.close())
        for batch in rx.batches():
            print(f"{len(batch)} packets, {batch[0].data!r} first", flush=True)
        print(
            f"{rx.stats.received} received, {rx.stats.dropped} dropped; of the host: {mcast.host_counters() - before}"
        )


if __name__ == "__main__":
    main()
