"""Buffers: of the sockets that have the group's port, of the stack, of the interface."""

from collections.abc import Iterator
from shlex import quote

from mcast_fast._host import offloads, port_users
from mcast_fast.doctor._context import Context
from mcast_fast.doctor._feeds import Feed
from mcast_fast.doctor._finding import Finding
from mcast_fast.doctor._readings import can_administer, setting

DEFAULT = 4 << 20  # what a Receiver requests
SHOWN = 5  # sockets
LARGER = 8  # times what was too small
MIB = 1 << 20
PAUSE = 0.05  # seconds for which a program may not read: a collection of garbage, a busy machine
LEAST_PACKETS, LEAST_SECONDS = 100, 0.1  # that say something of a rate
SKB, HEADERS, SHARED, SMALLEST = 256, 42, 320, 832  # bytes, as measured with Linux 6.18 over veth


def overflow(context: Context) -> Iterator[Finding]:
    """Whether a program on the port loses packets because its buffer is full; now, or before."""
    done: set[int] = set()
    for feed in context.feeds:
        before, after = context.before.users.get(feed.port, {}), context.after.users.get(feed.port, {})
        lost = {inode: after[inode].drops - one.drops for inode, one in before.items() if inode in after}
        users = [after[inode] for inode in lost if inode not in done and (lost[inode] > 0 or after[inode].drops)]
        users.sort(key=lambda one: -lost[one.inode])
        done.update(one.inode for one in users)
        for user in context.owned(users[:SHOWN]):
            yield _overflow(feed, user, lost[user.inode], len(users))


def _overflow(feed: Feed, user: port_users.PortUser, now: int, count: int) -> Finding:
    size = -(-max(DEFAULT, LARGER * (user.buffer or 0) // 2) // MIB)
    call = feed.call(buffer_size=f"{size}MiB")
    limit = setting("core/rmem_max")
    needs_sysctl = not can_administer() and (limit or size * MIB) < size * MIB
    uncoalesced = feed.interface is not None and offloads.read(feed.interface.index)[offloads.GRO] is False
    evidence = [
        f"{now} drops while the doctor listened, {user.drops} since it was opened",
        f"{user.queued} bytes wait in it; its limit is {user.buffer or 'not known'} bytes",
        _limit(limit),
    ]
    evidence += [f"{offloads.GRO} is off on {feed.name}"] * uncoalesced
    evidence += [f"{count} sockets on the port lost packets; the first {SHOWN} are reported"] * (count > SHOWN)
    return Finding(
        "buffers.overflow" if now > 0 else "buffers.backlog",
        "problem" if now > 0 else "warning",
        f"{port_users.describe(user)} {'loses' if now > 0 else 'lost'} packets: its receive buffer "
        f"{'is' if now > 0 else 'was'} full",
        tuple(evidence),
        f"sysctl -w net.core.rmem_max={size * MIB}" if needs_sysctl else call,
        f"Then open it with {call}. "
        * needs_sysctl
        + "A larger buffer holds longer bursts; a program that is too slow on average needs less work for each packet, "
        "or background=True."
        + f" `ethtool -K {quote(feed.name)} gro on` lets a Receiver take packets coalesced when it is slow."
        * uncoalesced,
        group=feed.text,
    )


def interface(context: Context) -> Iterator[Finding]:
    """Whether packets were lost before any socket."""
    softnet = context.grown("softnet.dropped")
    if softnet:
        yield Finding(
            "buffers.interface",
            "warning",
            "the queue of received packets overflowed before any socket",
            (f"{softnet} drops while the doctor listened (/proc/net/softnet_stat, second column)",),
            "sysctl -w net.core.netdev_max_backlog=10000",
            "",
        )
    for name in context.names:
        if dropped := context.grown(f"dev.{name}.dropped"):
            yield Finding(
                "buffers.interface",
                "warning",
                f"the interface {name} dropped packets before any socket",
                (f"{dropped} drops while the doctor listened (/proc/net/dev)",),
                f"ethtool -G {quote(name)} rx 4096",
                "Packets of protocols that no program uses count too; `ethtool -S` says more.",
            )


def short(context: Context) -> Iterator[Finding]:
    """Whether the buffers on the port hold less of this feed than a program may pause for."""
    for feed in context.feeds:
        seconds = context.listening.ended - feed.first_heard
        if feed.packets < LEAST_PACKETS or seconds < LEAST_SECONDS:
            continue
        rate, size = feed.packets / seconds, feed.octets / feed.packets
        users = context.after.users.get(feed.port, {}).values()
        limit = setting("core/rmem_max")
        own = 2 * (DEFAULT if can_administer() or limit is None else min(DEFAULT, limit))
        known = sorted((user for user in users if user.buffer), key=lambda one: one.buffer or 0)
        smallest = known[0].buffer or own if known else own
        held = smallest / (_memory(size) * rate)
        if held >= PAUSE:
            continue
        wanted = -(-int(PAUSE * rate * _memory(size) / 2) // MIB)
        call = feed.call(buffer_size=f"{wanted}MiB")
        needs_sysctl = not can_administer() and (limit or wanted * MIB) < wanted * MIB
        owner = port_users.describe(context.owned(known[:1])[0]) if known else "a receiver with the default buffer"
        yield Finding(
            "buffers.short",
            "warning",
            f"{owner} holds {held * 1000:.0f} ms of this feed: when a program pauses longer, packets are lost",
            (
                f"about {rate:,.0f} packets per second of {size:,.0f} bytes; a buffer of {smallest:,} bytes holds at "
                f"most {smallest // _memory(size):,}, each with what the kernel needs",
                _limit(limit),
            ),
            f"sysctl -w net.core.rmem_max={wanted * MIB}" if needs_sysctl else call,
            (f"Then open it with {call}. " * needs_sysctl) + f"That holds {PAUSE * 1000:.0f} ms.",
            group=feed.text,
        )


def _limit(size: int | None) -> str:
    return f"net.core.rmem_max = {'not known' if size is None else size}"


def _memory(size: float) -> int:
    """Bytes of a receive buffer that a datagram takes at least: its buffer, a power of two with what the kernel keeps
    behind it (struct skb_shared_info), and struct sk_buff (net/core/skbuff.c)."""
    return max(SMALLEST, SKB + (1 << (int(size) + HEADERS + SHARED - 1).bit_length()))


def clipped(_: Context) -> Iterator[Finding]:
    """Whether a receiver gets the buffer that it requests."""
    limit = setting("core/rmem_max")
    if limit is not None and limit < DEFAULT and not can_administer():
        yield Finding(
            "buffers.clipped",
            "warning",
            f"a receiver requests a buffer of {DEFAULT} bytes, and the system allows {limit}",
            (f"net.core.rmem_max = {limit}",),
            f"sysctl -w net.core.rmem_max={DEFAULT}",
            "As root. It matters for bursts that Python does not read at once.",
        )


CHECKS = (overflow, short, interface, clipped)
