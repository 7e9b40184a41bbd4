"""How a DestinationRule spreads requests over endpoints."""

# ruff: noqa: RUF009 - item() is dataclasses.field() with a shape

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.model.manifest.record import Record, Rule, item
from mesh.model.manifest.shapes import NOTHING, Choice, Flag, Integer, ListOf, MapOf, Number, Text
from mesh.model.manifest.words import DURATION, HEADER_NAME, NONEMPTY, POSITIVE

RING = Integer(0, 8_388_608)
MAX_TABLE = 5_000_011
LOCALITY = Text(r"\*|[^/*]+(?:/[^/*]+){0,2}(?:/\*)?", "<region>/<zone>/<subzone>, with '*' alone or for the last of them", 256)
REGION = Text(r"[^/*]+", "a region's name", 256)
LABEL_OR_PAIR = Text(r"[^=\s]+(?:=\S*)?", "a label's key, or <key>=<value>", 381)
ZONES_ARE_ENVOYS = "zone-aware balancing needs to know all proxies of a zone, which waypoints and tunnels do not; localityLbSetting works"


def _prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieAttribute:
    name: str = item(NONEMPTY, required=True, about="The attribute's name, such as SameSite.")
    value: str = item(Text(), "", about="Its value; none if empty.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPCookie:
    """`ttl` in seconds: None where no cookie is made, 0 for one that ends with the session."""

    name: str = item(NONEMPTY, required=True, about="The cookie's name.")
    path: str = item(Text(), "", about="The path that a new cookie is for.")
    ttl: float | None = item(DURATION, about="How long a new cookie lives; 0s as long as the session. Absent, none is made.")
    attributes: tuple[CookieAttribute, ...] = item(
        ListOf(Record(CookieAttribute), most=32), (), about="Further attributes of a new cookie."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RingHash:
    minimum_ring_size: int = item(RING, 1024, about="How many places the ring has at least.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Maglev:
    table_size: int = item(Integer(2, MAX_TABLE - 1), 65537, about="How many places the table has: a prime.")

    RULES = (Rule(lambda maglev: _prime(maglev.table_size), "tableSize", f"a prime below {MAX_TABLE}"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistentHash:
    """One key, and at most one way to place endpoints; a ring if none is named."""

    http_header_name: str = item(HEADER_NAME, "", about="The header whose value chooses the endpoint.")
    http_cookie: HTTPCookie | None = item(Record(HTTPCookie), about="The cookie whose value chooses the endpoint.")
    use_source_ip: bool = item(Flag(), False, about="Whether the client's address chooses the endpoint.")
    http_query_parameter_name: str = item(NONEMPTY, "", about="The query parameter whose value chooses the endpoint.")
    ring_hash: RingHash | None = item(Record(RingHash), about="A ring on which endpoints have many places.")
    maglev: Maglev | None = item(Record(Maglev), about="A table of fixed size in which endpoints have equal shares.")
    minimum_ring_size: int | None = item(RING, about="The old place of ringHash.minimumRingSize.")

    RULES = (
        Rule(
            lambda hashed: (
                [
                    bool(hashed.http_header_name),
                    hashed.http_cookie is not None,
                    hashed.use_source_ip,
                    bool(hashed.http_query_parameter_name),
                ].count(True)
                == 1
            ),
            "",
            "exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName",
            "[has(self.httpHeaderName), has(self.httpCookie), has(self.useSourceIp) && self.useSourceIp, has(self.httpQueryParameterName)]"
            ".filter(x, x).size() == 1",
        ),
        Rule(
            lambda hashed: [hashed.ring_hash is not None, hashed.maglev is not None, hashed.minimum_ring_size is not None].count(True) <= 1,
            "",
            "at most one of ringHash, maglev and minimumRingSize",
            "[has(self.ringHash), has(self.maglev), has(self.minimumRingSize)].filter(x, x).size() <= 1",
        ),
    )

    @property
    def ring_size(self) -> int:
        """The smallest ring, where endpoints are placed on one."""
        if self.ring_hash is not None:
            return self.ring_hash.minimum_ring_size
        return 1024 if self.minimum_ring_size is None else self.minimum_ring_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribute:
    from_: str = item(LOCALITY, required=True, about="Where requests come from.")
    to: Mapping[str, int] = item(
        MapOf(LOCALITY, Integer(1, 100), 256), NOTHING, about="Where they go: shares that add up to 100, by locality."
    )

    RULES = (Rule(lambda entry: sum(entry.to.values()) == 100, "to", "shares that add up to 100"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failover:
    from_: str = item(REGION, required=True, about="The region whose endpoints have failed.")
    to: str = item(REGION, required=True, about="The region that takes over.")

    RULES = (Rule(lambda entry: entry.from_ != entry.to, "to", "another region than from", "self.from != self.to"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalityLb:
    distribute: tuple[Distribute, ...] = item(ListOf(Record(Distribute), most=256), (), about="Fixed shares by locality of the client.")
    failover: tuple[Failover, ...] = item(ListOf(Record(Failover), most=256), (), about="Which region takes over from which.")
    failover_priority: tuple[str, ...] = item(
        ListOf(LABEL_OR_PAIR, most=64),
        (),
        about="Labels in order: the more of the first ones an endpoint shares with the client, the sooner it is used.",
    )
    enabled: bool | None = item(Flag(), about="Whether localities count; absent, what the mesh says.")

    RULES = (
        Rule(
            lambda setting: not (setting.distribute and (setting.failover or setting.failover_priority)),
            "distribute",
            "distribute, or failover and failoverPriority",
            "!(has(self.distribute) && size(self.distribute) > 0 && (has(self.failover) && size(self.failover) > 0 || "
            "has(self.failoverPriority) && size(self.failoverPriority) > 0))",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneAwareLb:
    enabled: bool | None = item(Flag(), about="Whether zones count.")
    failover: tuple[Failover, ...] = item(ListOf(Record(Failover), most=256), (), about="Which region takes over from which.")
    failover_priority: tuple[str, ...] = item(ListOf(LABEL_OR_PAIR, most=64), (), about="Labels that decide who takes over.")
    min_cluster_size: int = item(Integer(1, 2**32 - 1), 6, about="With fewer endpoints than this, zones do not count.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmup:
    """`duration` in seconds."""

    duration: float = item(POSITIVE, required=True, about="How long a new endpoint's share grows.")
    minimum_percent: float = item(Number(0, 100), 10.0, about="The share that it begins with, of a hundred.")
    aggression: float = item(Number(1, 1_000_000), 1.0, about="How fast it grows: 1 evenly, more for slowly at first.")


SIMPLE = ("UNSPECIFIED", "LEAST_REQUEST", "LEAST_CONN", "RANDOM", "ROUND_ROBIN", "PASSTHROUGH")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancer:
    simple: str = item(Choice(SIMPLE), "", about="How an endpoint is chosen; absent, LEAST_REQUEST.")
    consistent_hash: ConsistentHash | None = item(Record(ConsistentHash), about="Requests with the same key go to the same endpoint.")
    locality_lb_setting: LocalityLb | None = item(Record(LocalityLb), about="What regions and zones mean for the choice.")
    zone_aware_lb_setting: ZoneAwareLb | None = item(Record(ZoneAwareLb), about="A choice within the zone.", unsupported=ZONES_ARE_ENVOYS)
    warmup: Warmup | None = item(Record(Warmup), about="New endpoints get their share little by little.")
    warmup_duration_secs: float | None = item(POSITIVE, about="The old way to say warmup.duration.")

    RULES = (
        Rule(
            lambda balancer: not (balancer.simple and balancer.consistent_hash),
            "simple",
            "one of simple and consistentHash",
            "!(has(self.simple) && has(self.consistentHash))",
        ),
        Rule(
            lambda balancer: balancer.warmup is None or balancer.warmup_duration_secs is None,
            "warmupDurationSecs",
            "one of warmup and warmupDurationSecs",
            "!(has(self.warmup) && has(self.warmupDurationSecs))",
        ),
        Rule(
            lambda balancer: (
                balancer.warming is None or (balancer.consistent_hash is None and balancer.simple not in ("RANDOM", "PASSTHROUGH"))
            ),
            "warmup",
            "warmup with LEAST_REQUEST or ROUND_ROBIN only: others have no shares",
            "!(has(self.warmup) || has(self.warmupDurationSecs)) || "
            "!has(self.consistentHash) && !(has(self.simple) && self.simple in ['RANDOM', 'PASSTHROUGH'])",
        ),
    )

    @property
    def warming(self) -> Warmup | None:
        """However it was written."""
        return self.warmup or (Warmup(duration=self.warmup_duration_secs) if self.warmup_duration_secs else None)
