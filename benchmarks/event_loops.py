"""Receivers that run in an event loop: our aio.Receiver, and the DatagramProtocol that asyncio offers."""

import asyncio

from benchmarks import network
from benchmarks.contenders import BATCH_SIZE, Received, Setting


class AioBatches:
    """`async for batch in aio.Receiver`, all rounds in one loop."""

    def __init__(self, setting: Setting) -> None:
        from mcast_fast import aio

        place = setting.place
        self._loop = self.new_loop()
        self._receiver = aio.Receiver(
            f"{place.group}%{place.interface}:{place.port}",
            batch_size=BATCH_SIZE,
            buffer_size=place.buffer_bytes,
            timeout=place.quiet_ms / 1000,
        )

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def receive(self, limit: int) -> Received:
        return self._loop.run_until_complete(self._receive(limit))

    async def _receive(self, limit: int) -> Received:
        before = self._receiver.stats
        packets = batches = 0
        try:
            async for batch in self._receiver:
                packets += len(batch)
                batches += 1
                if packets >= limit:
                    break
        except TimeoutError:
            pass
        return Received(packets, batches, self._receiver.stats.bytes - before.bytes)

    def close(self) -> None:
        self._receiver.close()
        self._loop.close()


class Bare(AioBatches):
    """The least that a loop costs: a reader's callback that takes what is there, and no task."""

    async def _receive(self, limit: int) -> Received:
        receiver, loop = self._receiver._receiver, self._loop
        before, packets, batches = receiver.stats, 0, 0

        def take() -> None:
            nonlocal packets, batches
            packets += len(receiver.recv_batch())
            batches += 1

        loop.add_reader(receiver.fileno(), take)
        last = -1
        while packets < limit and last != packets:
            last = packets
            await asyncio.sleep(self._receiver.timeout)
        loop.remove_reader(receiver.fileno())
        return Received(packets, batches, receiver.stats.bytes - before.bytes)


class Counting(asyncio.DatagramProtocol):
    """The least that a protocol does."""

    packets = 0

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.packets += 1


class Protocol:
    """asyncio.DatagramProtocol: a call a packet, with payload and source."""

    def __init__(self, setting: Setting) -> None:
        self._quiet = setting.place.quiet_ms / 1000
        self._loop = self.new_loop()
        sock = network.receiving_socket(setting.place)
        sock.setblocking(False)
        opening = self._loop.create_datagram_endpoint(Counting, sock=sock)
        self._transport, self._protocol = self._loop.run_until_complete(opening)

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def receive(self, limit: int) -> Received:
        self._protocol.packets = 0
        self._loop.run_until_complete(self._until_quiet(limit))
        return Received(self._protocol.packets, self._protocol.packets)

    async def _until_quiet(self, limit: int) -> None:
        before = -1
        while self._protocol.packets < limit and before != self._protocol.packets:
            before = self._protocol.packets
            await asyncio.sleep(self._quiet)

    def close(self) -> None:
        self._transport.close()
        self._loop.run_until_complete(asyncio.sleep(0))  # in which the transport closes its socket
        self._loop.close()


class OnUvloop:
    def new_loop(self) -> asyncio.AbstractEventLoop:
        import uvloop

        return uvloop.new_event_loop()


class AioBatchesOnUvloop(OnUvloop, AioBatches):
    pass


class ProtocolOnUvloop(OnUvloop, Protocol):
    pass
