"""The contract of the views: what both backends offer over records and arena."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime as datetime_type
from typing import Any, overload

from mcast_fast._core.columns import Address
from mcast_fast._core.layout import Feature, Flag

FEATURES: dict[str, Feature]

class Batch:
    """Packets received together: immutable, and alive as long as anything that was taken from it.

    A sequence of packets: `len(batch)`, `batch[0]`, `batch[-1]`, `batch[10:20]`, `for packet in batch`. For columns,
    `np.asarray(batch)` gives one structured array of 64-byte records without a copy."""

    names: dict[int, str]
    @staticmethod
    def from_bytes(
        records: bytes | bytearray | memoryview, data: bytes | bytearray | memoryview, names: dict[int, str]
    ) -> Batch:
        """A batch of copies: `records` in the record's layout, `data` the arena they point into; ValueError."""
    @staticmethod
    def concatenate(batches: Iterable[Batch]) -> Batch:
        """One batch with copies of all their packets, in order; ValueError beyond 4 GiB of payload."""
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Packet]: ...
    @overload
    def __getitem__(self, index: int) -> Packet: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    @property
    def payload_bytes(self) -> int:
        """Bytes of all payloads together."""
    def payloads(self) -> list[bytes]:
        """Every payload as bytes, in the order of arrival."""
    def rows(self, size: int) -> memoryview:
        """The first `size` bytes of each payload, as rows.

        Args:
            size: bytes in a row, 1 to 65,535; what a payload has beyond it is left out.

        Returns:
            A read-only memoryview of the shape (len(batch), size), which `np.asarray` takes. It is a view of `data`
            where the payloads have this size and lie one behind the other, as received without a ring, and a copy
            otherwise.

        Raises:
            ArgumentError: the size is out of range, or a payload is shorter, which is named.
        """

    def view_as(self, dtype: Any) -> Any:
        """The payloads as elements of a NumPy type: `batch.view_as([("number", ">u4"), ("price", ">i8")])["price"]`.

        Args:
            dtype: what `np.dtype` takes, of a fixed size and without objects; what a payload has beyond it is left
                out.

        Returns:
            A read-only array with one element for each packet, over the memory of `rows(size of the type)`.

        Raises:
            ArgumentError: it is no such type, or a payload is shorter than it.
            FeatureError: NumPy is not installed.
        """

    def where(self, *, group: Address | None = None, source: Address | None = None, port: int | None = None) -> Batch:
        """The packets that match everything given, as a batch: `batch.where(group="239.1.1.1", port=5000)`.

        Args:
            group: destination address, IPv4 or IPv6, as text or as an object of `ipaddress`; None = any.
            source: address of the sender; None = any. With a zone ("fe80::1%eth0"): as received on this interface.
            port: UDP port of the destination; None = any.

        Returns:
            A Batch in the same order, without a copy of payloads: like a slice it keeps the memory of the whole batch.

        Raises:
            ArgumentError: what is given is no address or port.
        """

    def borrow(self) -> AbstractContextManager[memoryview]:
        """`with batch.borrow() as memory:` gives the arena as `data` does, but never copies a ring's block."""
    @property
    def records(self) -> memoryview:
        """The records as a read-only structured memoryview, without a copy (PEP 3118, `mcast_fast.RECORD_FIELDS`)."""
    @property
    def data(self) -> memoryview:
        """The arena as a read-only memoryview: `offset` and `length` of a record point into it. A batch of a ring is
        copied out of it once."""
    @property
    def __array_struct__(self) -> Any: ...
    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[Any, Any]: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...

def arrow_stream(batches: Iterable[Batch], requested_schema: Any = None) -> Any: ...

class Packet:
    """One received packet; each property is built when it is read. What is not known is None.

    It is its payload to whoever asks for a buffer: `struct.unpack_from(format, packet)`, `bytes(packet)`. A packet
    keeps the memory of its whole batch; `copy()` does not."""

    @property
    def data(self) -> bytes:
        """The payload, bytes."""
    @property
    def view(self) -> memoryview:
        """The payload as a read-only memoryview, without a copy (of a ring's batch: as `Batch.data`)."""
    @property
    def timestamp(self) -> int | None:
        """Arrival, ns since the Unix epoch; None when unknown: with timestamps=None, or from a file without times."""
    @property
    def datetime(self) -> datetime_type | None:
        """Arrival as an aware datetime in UTC, cut to whole microseconds; None when unknown. With `Flag.HARDWARE` it is
        by the network card's clock, which often counts TAI."""
    @property
    def source(self) -> str:
        """Address of the sender; IPv6 link-local keeps its zone: 'fe80::1%eth0'."""
    @property
    def source_port(self) -> int:
        """UDP port of the sender."""
    @property
    def source_address(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The sender as `socket.sendto` takes it."""
    @property
    def group(self) -> str:
        """The true destination address. Of an answer to a Sender, '::' where the system does not report it (feature
        `destination`)."""
    @property
    def port(self) -> int:
        """UDP port it was sent to."""
    @property
    def interface(self) -> str | None:
        """Name of the interface it arrived on; None when unknown."""
    @property
    def interface_index(self) -> int | None:
        """Index of the interface it arrived on (of a file: as the file counts, from 1); None when unknown."""
    @property
    def dropped(self) -> int:
        """Buffers the kernel dropped just before this packet; 0 too where the system does not report it (feature
        `drop_gaps`)."""
    @property
    def truncated(self) -> bool:
        """Whether the payload was longer than `max_packet_size`."""
    @property
    def wire_length(self) -> int | None:
        """Bytes of payload before truncation; None when unknown: some systems report only that it was truncated."""
    @property
    def flags(self) -> Flag:
        """Bits of `mcast_fast.Flag`."""
    @property
    def ttl(self) -> int | None:
        """TTL or hop limit; None unless the receiver was opened with recv_ttl=True, or with a ring."""
    @property
    def tos(self) -> int | None:
        """TOS or traffic class; None unless the receiver was opened with recv_tos=True, or with a ring."""
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def copy(self) -> Packet:
        """The same packet with memory of its own: the batch it came in can be freed."""
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
