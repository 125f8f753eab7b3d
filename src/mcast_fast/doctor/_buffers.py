"""Buffers: of the sockets that have the group's port, of the stack, of the interface."""

from collections.abc import Iterator
from shlex import quote

from mcast_fast._host import port_users
from mcast_fast.doctor._context import Context
from mcast_fast.doctor._finding import Finding
from mcast_fast.doctor._readings import can_administer, setting

DEFAULT = 4 << 20  # what a Receiver requests
LARGER = 8  # times what was too small
MIB = 1 << 20


def overflow(context: Context) -> Iterator[Finding]:
    """Whether a program on the port loses packets because its buffer is full; now, or before."""
    for feed in context.feeds:
        before, after = context.before.users.get(feed.port, {}), context.after.users.get(feed.port, {})
        lost = {inode: after[inode].drops - one.drops for inode, one in before.items() if inode in after}
        users = [after[inode] for inode in lost if lost[inode] > 0 or after[inode].drops]
        for user in context.owned(sorted(users, key=lambda one: -lost[one.inode])):
            now = lost[user.inode]
            size = -(-max(DEFAULT, LARGER * (user.buffer or 0) // 2) // MIB)
            call = feed.call(buffer_size=f"{size}MiB")
            limit = setting("core/rmem_max") or 0
            needs_sysctl = not can_administer() and limit < size * MIB
            yield Finding(
                "buffers.overflow" if now > 0 else "buffers.backlog",
                "problem" if now > 0 else "warning",
                f"{port_users.describe(user)} {'loses' if now > 0 else 'lost'} packets: its receive buffer "
                f"{'is' if now > 0 else 'was'} full",
                (
                    f"{now} drops while the doctor listened, {user.drops} since it was opened",
                    f"{user.queued} bytes wait in it; its limit is {user.buffer or 'not known'} bytes",
                    f"net.core.rmem_max = {limit}",
                ),
                f"sysctl -w net.core.rmem_max={size * MIB}" if needs_sysctl else call,
                f"Then open it with {call}. "
                * needs_sysctl
                + "A larger buffer holds longer bursts; a program that is too slow on average needs less work for each "
                "packet, or background=True.",
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
    for name in sorted({feed.name for feed in context.feeds if feed.name}):
        if dropped := context.grown(f"dev.{name}.dropped"):
            yield Finding(
                "buffers.interface",
                "warning",
                f"{name} dropped packets before any socket",
                (f"{dropped} drops while the doctor listened (/proc/net/dev)",),
                f"ethtool -G {quote(name)} rx 4096",
                "Packets of protocols that no program uses count too; `ethtool -S` says more.",
            )


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


CHECKS = (overflow, interface, clipped)
