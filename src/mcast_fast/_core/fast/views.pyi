"""The contract of the views: what both backends offer over records and arena."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime as datetime_type
from typing import Any, overload

from mcast_fast._core.columns import Address
from mcast_fast._core.layout import Feature, Flag

FEATURES: dict[str, Feature]

class Batch:
    """Packets received together: immutable, and valid as long as anything that was taken from it.

    A sequence of packets: `len(batch)`, `batch[0]`, `batch[-1]`, `batch[10:20]`, `for packet in batch`. For columns,
    `np.asarray(batch)` gives one structured array of 64-byte records without a copy. Threads may read a batch together.
    Batches are equal when their packets are. Pickling takes their own packets only.
    """

    names: dict[int, str]
    @staticmethod
    def from_bytes(
        records: bytes | bytearray | memoryview, data: bytes | bytearray | memoryview, names: dict[int, str]
    ) -> Batch:
        """Copy records and the arena that they point into to a new batch.

        Args:
            records: Records of 64 bytes in the layout of `mcast_fast.receiver.RECORD_FIELDS`, as a contiguous buffer.
            data: The arena, as a contiguous buffer.
            names: The name of each interface by the index that records have.

        Returns:
            A Batch with memory of its own.

        Raises:
            ValueError: A record points outside of `data`, or `records` ends within a record.
            TypeError: An argument is no buffer, or `names` is no dict of names by index.
        """
    @staticmethod
    def concatenate(batches: Iterable[Batch]) -> Batch:
        """Copy the packets of several batches to one batch, in their order.

        Args:
            batches: Batches of any receivers and files.

        Returns:
            A Batch with memory of its own.

        Raises:
            ValueError: The payloads have more than 4 GiB together.
            TypeError: Something is no Batch.
        """
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Packet]: ...
    @overload
    def __getitem__(self, index: int) -> Packet: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    @property
    def payload_bytes(self) -> int:
        """The number of bytes of all payloads together."""
    def payloads(self) -> list[bytes]:
        """Return every payload as bytes, in the order of arrival.

        Returns:
            A list of bytes objects, one for each packet.
        """
    def rows(self, size: int) -> memoryview:
        """Return the first `size` bytes of each payload as a read-only memoryview of the shape (len(batch), size).

        Args:
            size: Bytes of a row, 1 to 65,535; the rest of a longer payload is left out.

        Returns:
            A memoryview, which `np.asarray` takes. It is a view of `data` where all payloads have this size and are
            adjacent, as received without a ring; otherwise it is a copy.

        Raises:
            ArgumentError: The size is out of range, or a payload is shorter; the message names the packet.
        """

    def view_as(self, dtype: Any) -> Any:
        """Return the payloads as a read-only array of a NumPy type, one element per packet.

        `batch.view_as([("number", ">u4"), ("price", ">i8")])["price"]` is a column of the payloads.

        Args:
            dtype: What `np.dtype` takes, of a fixed size and without objects; the rest of a longer payload is left out.

        Returns:
            An array over the memory of `rows(size of the type)`.

        Raises:
            ArgumentError: It is no such type, or a payload is shorter.
            FeatureError: NumPy is not installed.
        """

    def where(self, *, group: Address | None = None, source: Address | None = None, port: int | None = None) -> Batch:
        """Return the packets that match all given conditions, as a batch in the same order.

        `batch.where(group="239.1.1.1", port=5000)` copies no payloads: like a slice, it keeps the memory of the whole
        batch.

        Args:
            group: The destination address, IPv4 or IPv6, as text or as an object of `ipaddress`; None: any.
            source: The address of the sender; None: any. With a zone ("fe80::1%eth0"): as received on this interface.
            port: The UDP port of the destination, 0 to 65,535; None: any.

        Returns:
            A Batch, which may be empty.

        Raises:
            ArgumentError: An argument is no address, or no port.
        """

    def borrow(self) -> AbstractContextManager[memoryview]:
        """Lend the arena for the duration of a `with`, as `data` but without copying it out of a ring.

        `with batch.borrow() as memory:` gives a read-only memoryview that is valid until the end of the `with`. What
        was exported from it (a NumPy array, a PickleBuffer) stays valid, and keeps its contents, for as long as it
        exists. Neither stops a ring: when the kernel needs the block again, its pages are replaced by a copy at the
        same address.

        Returns:
            A context manager, to be used once.
        """
    @property
    def records(self) -> memoryview:
        """The records as a read-only structured memoryview, without a copy (PEP 3118).

        `mcast_fast.receiver.RECORD_FIELDS` lists the fields. `np.asarray(batch)` makes the same array, and faster than
        `np.asarray(batch.records)`, for which NumPy parses the format of the buffer each time.
        """
    @property
    def data(self) -> memoryview:
        """The arena as a read-only memoryview, into which `offset` and `length` of a record point.

        It holds the payloads of the whole batch, one after the other, also where this is a slice of it. A batch of a
        ring is copied out of it once, with the bytes between the payloads, and the ring gets its block back; `borrow()`
        avoids that.
        """
    @property
    def __array_struct__(self) -> Any: ...
    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[Any, Any]:
        """Export the batch through the Arrow C data interface, which pyarrow, polars and DuckDB read.

        A struct with a column for each field of the record, and the payloads as binary, without a copy where they
        follow one another without gaps. The arrays stay valid after the batch and the interpreter are gone.

        Args:
            requested_schema: Ignored: there is one schema.

        Returns:
            The capsules of schema and array.

        Raises:
            FeatureError: The pure backend needs pyarrow for it (feature `arrow`).
        """

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

def by_time(batch: Batch) -> Batch: ...
def csv_rows(batch: Batch, texts: Callable[[int], bytes]) -> bytearray: ...
def extent(batch: Batch) -> tuple[int, int, frozenset[bytes]]: ...
def arrow_stream(batches: Iterable[Batch], requested_schema: Any = None) -> Any: ...

class Packet:
    """One received packet; each property is computed when it is read. What is unknown is None.

    It supports the buffer protocol with its payload: `struct.unpack_from(format, packet)`, `memoryview(packet)`,
    `bytes(packet)`. Packets are equal when their payloads, and all that is known of them, are. A packet keeps the
    memory of its whole batch; `copy()` does not.
    """

    @property
    def data(self) -> bytes:
        """The payload, as bytes."""
    @property
    def view(self) -> memoryview:
        """The payload as a read-only memoryview, without a copy (of a ring's batch: as `Batch.data`)."""
    @property
    def timestamp(self) -> int | None:
        """Time of arrival, ns since the Unix epoch; None when unknown.

        It is unknown with `timestamps=None`, and in a file without times. With `Flag.HARDWARE` it is by the clock of
        the network card, which often counts TAI.
        """
    @property
    def datetime(self) -> datetime_type | None:
        """Time of arrival as an aware datetime in UTC, truncated to microseconds; None when unknown.

        With `Flag.HARDWARE` it is by the clock of the network card, which often counts TAI.
        """
    @property
    def source(self) -> str:
        """Address of the sender; IPv6 link-local addresses have their zone: 'fe80::1%eth0'."""
    @property
    def source_port(self) -> int:
        """UDP port of the sender."""
    @property
    def source_address(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The sender as `socket.sendto` takes it."""
    @property
    def group(self) -> str:
        """Destination address of the packet, as its IP header has it.

        Of an answer to a Sender it is '::' where the system does not report it (feature `destination`).
        """
    @property
    def port(self) -> int:
        """UDP port of the destination."""
    @property
    def interface(self) -> str | None:
        """Name of the interface on which the packet arrived; None when unknown."""
    @property
    def interface_index(self) -> int | None:
        """Index of the interface on which the packet arrived; None when unknown.

        In a capture file, interfaces are counted from 1.
        """
    @property
    def dropped(self) -> int:
        """Number of buffers that the kernel dropped just before this packet.

        It is 0, too, where the system does not report drops (feature `drop_gaps`).
        """
    @property
    def truncated(self) -> bool:
        """Whether the payload was longer than `max_packet_size`."""
    @property
    def wire_length(self) -> int | None:
        """Bytes of the payload before truncation; None where the system reports only that it was truncated."""
    @property
    def flags(self) -> Flag:
        """Bits of `mcast_fast.Flag`."""
    @property
    def ttl(self) -> int | None:
        """TTL or hop limit; None unless the receiver was opened with `recv_ttl=True` or with a ring."""
    @property
    def tos(self) -> int | None:
        """TOS or traffic class; None unless the receiver was opened with `recv_tos=True` or with a ring."""
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def copy(self) -> Packet:
        """Return the same packet with memory of its own, so that its batch can be freed.

        Returns:
            An equal Packet.
        """
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
