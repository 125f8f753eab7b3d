"""A listener that answers, and a client that takes every answer: IPv4 on the loopback, nothing leaves this machine.

python examples/listener.py
"""

import threading

import mcast_fast as mcast

GROUP = "224.0.0.123%lo:7645"


def listen(rx: mcast.Receiver) -> None:
    """Answer every question until the receiver is closed."""
    for packet in rx.packets():
        print(f"listener: {packet.data!r} from {packet.source}:{packet.source_port} on {packet.interface}")
        rx.reply(packet, b"pong")


with mcast.Receiver(GROUP) as rx, mcast.Sender(GROUP, ttl=0) as tx:
    listener = threading.Thread(target=listen, args=(rx,))
    listener.start()
    for answer in tx.gather(b"ping", timeout=0.5):
        print(f"client: {answer.data!r} from {answer.source}:{answer.source_port}")
    rx.close()
    listener.join()
