"""Receive a group in asyncio, count what comes, and end cleanly with Ctrl-C or after a quiet time.

python examples/asyncio_receiver.py 239.1.1.1%eth0:5000 --quiet 5
"""

import argparse
import asyncio

from mcast_fast import aio


async def report(rx: aio.Receiver) -> None:
    """What came in the last second; runs beside the receiving, in the same loop."""
    before = rx.stats
    while True:
        await asyncio.sleep(1)
        now = rx.stats
        print(f"{now.received - before.received:,} packets, {now.bytes - before.bytes:,} bytes", flush=True)
        before = now


async def receive(groups: list[str], quiet: float | None) -> None:
    async with aio.Receiver(*groups, timeout=quiet) as rx:
        reporter = asyncio.create_task(report(rx))
        try:
            async for batch in rx:
                for packet in batch:
                    if packet.data == b"ping":
                        rx.reply(packet, b"pong")
        except TimeoutError:
            print(f"nothing came for {quiet:g} s")
        finally:
            reporter.cancel()
            print(f"{rx.stats.received:,} packets in all; the kernel dropped {rx.stats.dropped_socket}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="+", metavar="GROUP", help="such as 239.1.1.1%%eth0:5000")
    parser.add_argument("--quiet", type=float, metavar="SECONDS", help="end when nothing came for so long")
    options = parser.parse_args()
    try:
        asyncio.run(receive(options.groups, options.quiet))
    except KeyboardInterrupt:
        print("ended")


if __name__ == "__main__":
    main()
