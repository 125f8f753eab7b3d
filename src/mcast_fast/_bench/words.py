"""Results as sentences. No I/O."""

from collections.abc import Mapping, Sequence

from mcast_fast._bench.trial import Limit, Result

_EVEN = 1_000_000  # packets per second, from which on a rate is written with M


def rate(value: float) -> str:
    """'310,000/s', '1.4 M/s'."""
    if value >= _EVEN:
        return f"{value / _EVEN:.2f} M/s"
    return f"{float(f'{value:.3g}'):,.0f}/s"


def verdict(results: Sequence[Result], not_tried: Mapping[str, str]) -> str:
    """All results in one sentence: 'sockets hold 310,000/s of 1,316 bytes; ring 1.4 M/s'."""
    parts: list[str] = []
    before = 0
    for one in results:
        size = "" if one.size == before else f" of {one.size:,} bytes"
        least = " at least" if one.limit == "sender" else ""
        holds = "" if parts and not size else (" hold" if one.how == "sockets" else " holds")
        found = f"{one.how}{holds}{least} {rate(one.rate)}{size}" if one.rate else f"{one.how}{holds} no rate{size}"
        parts.append(found)
        before = one.size
    parts += [f"{how} not tried" for how in not_tried]
    return "; ".join(parts)


def why(one: Result) -> str:
    """What was at its limit."""
    failed = [trial for trial in one.trials if trial.lost and (one.next is None or trial.offered <= 1.5 * one.next)]
    worst = failed[-1] if failed else None
    load = f"receiving took {worst.receiver_load:.0%} of a core" if worst is not None else ""
    lost = f"{worst.lost:,} of {worst.sent.packets:,} packets were lost at {rate(worst.offered)}" if worst else ""
    texts: dict[Limit, str] = {
        "sender": "the sender sent no more: what the receiver holds beyond this is unknown",
        "CPU": f"the receiver's CPU: {lost}, and {load}",
        "kernel buffers": f"kernel buffers: {lost} from full ones, while {load} (--buffer-size holds longer bursts)",
        "elsewhere": f"elsewhere: {lost}, and the receiver's counters do not have them (the network, or the sender)",
        "time": "the time was over before any rate was held: a longer --for finds more",
    }
    return texts[one.limit]


def details(one: Result) -> str:
    """A result with its reason, and what else is to be known."""
    bits = one.rate * one.size * 8 / 1e6
    text = f"{one.how}, {one.size:,} bytes: {rate(one.rate)}, {bits:,.0f} Mbit/s; limit: {why(one)}"
    if one.rate and not one.is_confirmed:
        text += "; not tried twice, for the time was over: a longer --for is more exact"
    if one.coalesced > 0:
        text += f"; {one.coalesced:.0%} came coalesced"
    return text
