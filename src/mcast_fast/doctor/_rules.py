"""Whether the rules of nftables stop a packet: a ruleset as `nft -j list ruleset` prints it (libnftables-json(5)).

No I/O. What cannot be decided from the packet alone (connection tracking, rates, expressions that are not known here)
may match or not: a rule behind it that drops is reported as a possible cause, never as a certain one.
"""

import fnmatch
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# What a packet has where hooks look at it, by the names of the JSON: "ip.daddr", "meta.l4proto". None: not known.
Fields = Mapping[str, Any]

# Numbers that nft prints as names: protocols, and types of MLD.
NUMBERS = {
    "icmp": 1,
    "igmp": 2,
    "tcp": 6,
    "udp": 17,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "mld-listener-query": 130,
    "mld-listener-report": 131,
    "mld2-listener-report": 143,
}
INPUT, OUTPUT = ("ingress", "prerouting", "input"), ("output", "postrouting", "egress")
FAMILIES = {4: ("ip", "inet", "netdev"), 6: ("ip6", "inet", "netdev")}
DROPS, UNDECIDED = ("drop", "reject"), ("limit", "quota", "ct count", "connlimit", "queue", "tproxy", "fwd", "dup")
MOST_ELEMENTS = 10_000  # of a set that are compared: lists of blocked networks have a million
DEEPEST = 16  # jumps; the kernel allows as many


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that drops: where it is, and how often it matched where it has a counter. Handle 0: the chain's policy."""

    family: str
    table: str
    chain: str
    handle: int
    is_certain: bool
    packets: int | None = None

    @property
    def place(self) -> str:
        """As the commands of nft(8) name it."""
        return f"{self.family} {self.table} {self.chain}"


@dataclass(slots=True)
class Ruleset:
    """Chains, their rules, and the elements of named sets."""

    chains: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    rules: dict[tuple[str, str, str], list[dict[str, Any]]] = field(default_factory=dict)
    sets: dict[tuple[str, str, str], list[Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Ruleset":
        """From the JSON of the whole ruleset."""
        made = cls()
        for entry in document.get("nftables", ()):
            for kind, one in entry.items():
                if kind == "chain":
                    made.chains[one["family"], one["table"], one["name"]] = one
                elif kind == "rule":
                    made.rules.setdefault((one["family"], one["table"], one["chain"]), []).append(one)
                elif kind in ("set", "map"):
                    made.sets[one["family"], one["table"], one["name"]] = one.get("elem", [])
        return made

    def drops(self, fields: Fields, hooks: tuple[str, ...]) -> list[Rule]:
        """The rules that drop a packet on its way through these hooks, in their order, up to a certain one."""
        found: list[Rule] = []
        bases = [one for one in self.chains.values() if one.get("hook") in hooks and self._is_for(one, fields)]
        for base in sorted(bases, key=lambda one: (hooks.index(one["hook"]), one.get("prio", 0))):
            walk = _Walk(self, fields)
            walk.chain((base["family"], base["table"], base["name"]))
            if not walk.is_over and base.get("policy") == "drop":
                walk.found.append(Rule(base["family"], base["table"], base["name"], 0, walk.is_certain))
            found += walk.found
            if any(rule.is_certain for rule in found):
                break
        return found

    def counter(self, rule: Rule) -> int | None:
        """How often a rule matched, where it has a counter."""
        rules = self.rules.get((rule.family, rule.table, rule.chain), [])
        return next((_count(one) for one in rules if one["handle"] == rule.handle), None)

    def _is_for(self, base: Mapping[str, Any], fields: Fields) -> bool:
        if base["family"] not in FAMILIES[fields["version"]]:
            return False
        devices = base.get("dev", [])
        devices = [devices] if isinstance(devices, str) else devices
        name = fields.get("meta.iifname") or fields.get("meta.oifname")
        return not devices or any(fnmatch.fnmatchcase(str(name), one) for one in devices)


class _Walk:
    """One packet's way through a base chain. `is_over`: a verdict ends it; `is_certain`: as far as the way is known."""

    def __init__(self, ruleset: Ruleset, fields: Fields) -> None:
        self._ruleset = ruleset
        self._fields = fields
        self.found: list[Rule] = []
        self.is_over = False
        self.is_certain = True

    def chain(self, key: tuple[str, str, str], depth: int = 0) -> None:
        """Take the packet through a chain."""
        for rule in self._ruleset.rules.get(key, ()):
            try:
                ends = self._rule(rule, key, depth)
            except (LookupError, TypeError, ValueError, AttributeError):  # not as any nft known here writes it
                self.is_certain, ends = False, False
            if ends or self.is_over:
                return

    def _rule(self, rule: Mapping[str, Any], key: tuple[str, str, str], depth: int) -> bool:
        """Whether this rule ends the chain, though not the walk."""
        matches: bool | None = True
        for statement in rule.get("expr", ()):
            for name, value in statement.items():
                if name == "match":
                    matches = _both(matches, _match(value, self._fields, self._elements(key)))
                elif name in UNDECIDED:
                    matches = _both(matches, None)
                if matches is False:
                    return False
                if name == "vmap":
                    matches = _both(matches, None)
                    for verdict, target in _verdicts(value, self._fields, self._elements(key)):
                        self._verdict(verdict, target, matches, rule, key, depth)
                elif self._verdict(name, value, matches, rule, key, depth):
                    return True
        return False

    def _verdict(
        self,
        name: str,
        value: Any,
        matches: bool | None,
        rule: Mapping[str, Any],
        key: tuple[str, str, str],
        depth: int,
    ) -> bool:
        if name in DROPS:
            is_certain = matches is True and self.is_certain
            self.found.append(Rule(*key, rule["handle"], is_certain, _count(rule)))
            self.is_over = matches is True
        elif name == "accept":
            self.is_over = matches is True
            self.is_certain = self.is_certain and matches is True
        elif name in ("jump", "goto") and depth < DEEPEST:
            before, self.is_certain = self.is_certain, self.is_certain and matches is True
            self.chain((key[0], key[1], value["target"]), depth + 1)
            if matches is None:
                self.is_over, self.is_certain = False, before and not self.found
            return name == "goto" and matches is True
        elif name == "return":
            return matches is True
        return False

    def _elements(self, key: tuple[str, str, str]) -> Mapping[str, list[Any]]:
        return {name: found for (*place, name), found in self._ruleset.sets.items() if place == list(key[:2])}


def _both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def _count(rule: Mapping[str, Any]) -> int | None:
    for statement in rule.get("expr", ()):
        counter = statement.get("counter")
        if isinstance(counter, dict):
            return int(counter.get("packets", 0))
    return None


def _verdicts(vmap: Mapping[str, Any], fields: Fields, sets: Mapping[str, list[Any]]) -> Iterator[tuple[str, Any]]:
    """The verdicts of a map that a packet may get, with the targets of jumps."""
    known, value = _value(vmap.get("key"), fields)
    data = vmap.get("data")
    elements = data.get("set", []) if isinstance(data, dict) else sets.get(str(data).removeprefix("@"), [])
    for element in elements:
        is_pair = isinstance(element, list) and len(element) == 2 and isinstance(element[1], dict)
        if is_pair and not (known and _equals(value, element[0], sets) is False):
            yield from element[1].items()


def _match(match: Mapping[str, Any], fields: Fields, sets: Mapping[str, list[Any]]) -> bool | None:
    known, left = _value(match.get("left"), fields)
    if not known:
        return None
    if left is False:
        return False  # a header that this packet does not have: the rule does not match, whatever it compares
    operator, right = match.get("op"), match.get("right")
    if operator in ("==", "in", "!="):
        equal = _equals(left, right, sets)
        return equal if operator != "!=" or equal is None else not equal
    return _ordered(operator, left, right)


def _ordered(operator: Any, left: Any, right: Any) -> bool | None:
    if not isinstance(left, int) or not isinstance(right, int):
        return None
    return {"<": left < right, ">": left > right, "<=": left <= right, ">=": left >= right}.get(str(operator))


def _value(expression: Any, fields: Fields) -> tuple[bool, Any]:
    """Whether the packet says what an expression is, and what; False: the packet has no such header."""
    for kind, detail in expression.items() if isinstance(expression, dict) else ():
        if kind in VALUES:
            return VALUES[kind](detail, fields)
    return False, None


def _masked(detail: Any, fields: Fields) -> tuple[bool, Any]:
    known, left = _value(detail[0], fields)
    if not known or left is False:
        return known, left
    usable = isinstance(left, int) and isinstance(detail[1], int)
    return usable, left & detail[1] if usable else None


def _meta(detail: Any, fields: Fields) -> tuple[bool, Any]:
    value = fields.get(f"meta.{detail.get('key')}")
    return value is not None, value


def _tracked(detail: Any, _: Fields) -> tuple[bool, Any]:
    """Connection tracking: a group does not answer, so its flow stays new."""
    return detail.get("key") == "state", "new"


def _extension(detail: Any, fields: Fields) -> tuple[bool, Any]:
    return detail.get("name") == "frag", bool(fields.get("is_fragment"))


def _payload(detail: Any, fields: Fields) -> tuple[bool, Any]:
    protocol = detail.get("protocol")
    if protocol not in fields["headers"]:
        return (False, None) if protocol in (None, "ether", "vlan", "arp") else (True, False)
    value = fields.get(f"{protocol}.{detail.get('field')}")
    return value is not None, value


VALUES: Mapping[str, Callable[[Any, Fields], tuple[bool, Any]]] = {
    "&": _masked,
    "payload": _payload,
    "meta": _meta,
    "ct": _tracked,
    "exthdr": _extension,
}


def _equals(value: Any, right: Any, sets: Mapping[str, list[Any]]) -> bool | None:
    if isinstance(right, str) and right.startswith("@"):
        return _equals(value, {"set": sets[right[1:]]}, sets) if right[1:] in sets else None
    if isinstance(right, dict):
        return _in(value, right, sets)
    if isinstance(right, list):
        return _in(value, {"set": right}, sets)
    if isinstance(right, bool) or isinstance(value, bool):
        return bool(value) == bool(right)
    left, other = _plain(value), _plain(right)
    if isinstance(other, str) and "*" in other:
        return fnmatch.fnmatchcase(str(left), other)
    return left == other if type(left) is type(other) else None


def _in(value: Any, right: Mapping[str, Any], sets: Mapping[str, list[Any]]) -> bool | None:
    if "set" in right:
        if len(right["set"]) > MOST_ELEMENTS:
            return None
        answers = [_equals(value, one, sets) for one in right["set"]]
        return True if True in answers else None if None in answers else False
    if "elem" in right:
        return _equals(value, right["elem"].get("val"), sets)
    if "prefix" in right:
        prefix = right["prefix"]
        network = ipaddress.ip_network(f"{prefix['addr']}/{prefix['len']}", strict=False)
        return ipaddress.ip_address(value) in network
    if "range" in right:
        first, value, last = (_ordinal(one) for one in (right["range"][0], value, right["range"][1]))
        return first <= value <= last if isinstance(first, int) and isinstance(last, int) else None
    return None


def _plain(value: Any) -> Any:
    """What has a number as that, everything else as it is."""
    return NUMBERS.get(value, value) if isinstance(value, str) else value


def _ordinal(value: Any) -> Any:
    if isinstance(value, int):
        return value
    try:
        return int(ipaddress.ip_address(value))
    except ValueError:
        return None
