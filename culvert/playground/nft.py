"""The nftables ruleset of one node: kube-proxy's part for pods outside the mesh. Pure: text out.

One table, replaced whole in one transaction, so that no packet ever sees half a ruleset. A connection's translation is decided at its
first packet and kept by conntrack: a change moves new connections only.

Hairpin: a pod that calls a service and is itself chosen would get its own packet back from itself, and drop it. Such packets
(translated, source = destination) leave with the node's address as source.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from culvert.playground.addresses import SERVICES4, SERVICES6
from culvert.playground.services import ServicePortState

TABLE = "culvert_services"

# Whatever still has a service address after translation: no ready endpoint, no such port, no such service. It is refused at once
# instead of leaving the caller to time out.
REFUSALS = [
    f"ip daddr {SERVICES4} meta l4proto tcp reject with tcp reset",
    f"ip daddr {SERVICES4} reject",
    f"ip6 daddr {SERVICES6} meta l4proto tcp reject with tcp reset",
    f"ip6 daddr {SERVICES6} reject",
]


def render_ruleset(states: Iterable[ServicePortState], pod_addresses: Iterable[str]) -> str:
    """The script for `nft -f -`. `pod_addresses` are those of the node's own pods: only they can be their own peer here."""
    ordered = sorted(states, key=lambda state: (":" in state.address, state.address, state.protocol, state.port))
    served = [state for state in ordered if state.endpoints]
    four, six = _by_family(pod_addresses)
    lines = [
        # Declared first so that deleting it never fails: `destroy` is younger than some nft in use.
        f"table inet {TABLE} {{}}",
        f"delete table inet {TABLE}",
        f"table inet {TABLE} {{",
        *(line for index, state in enumerate(served) for line in _service_chain(index, state)),
        *_dispatch(served),
        *_chain("prerouting", "type nat hook prerouting priority dstnat", ["jump services"]),
        *_chain("output", "type nat hook output priority -100", ["jump services"]),
        *_chain("postrouting", "type nat hook postrouting priority srcnat", _hairpin("ip", four) + _hairpin("ip6", six)),
        *_chain("refuse_forwarded", "type filter hook prerouting priority filter", REFUSALS),
        *_chain("refuse_local", "type filter hook output priority filter", REFUSALS),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _chain(name: str, head: str, rules: Sequence[str]) -> list[str]:
    return [f"  chain {name} {{", f"    {head}; policy accept;", *(f"    {rule}" for rule in rules), "  }"]


def _service_chain(index: int, state: ServicePortState) -> list[str]:
    family = _family(state.address)
    pairs = ", ".join(f"{number} : {endpoint.address} . {endpoint.port}" for number, endpoint in enumerate(state.endpoints))
    return [
        f"  chain service_{index} {{ # {state.service} {state.protocol} {state.port}",
        # conntrack matches replies by themselves: only first packets come through a nat chain.
        f"    meta l4proto {state.protocol.lower()} dnat {family} to numgen random mod {len(state.endpoints)} map {{ {pairs} }}",
        "  }",
    ]


def _dispatch(served: Sequence[ServicePortState]) -> list[str]:
    rules = []
    for family in ("ip", "ip6"):
        entries = [
            f"{state.address} . {state.protocol.lower()} . {state.port} : goto service_{index}"
            for index, state in enumerate(served)
            if _family(state.address) == family
        ]
        if entries:
            rules.append(f"{family} daddr . meta l4proto . th dport vmap {{ {', '.join(entries)} }}")
    return ["  chain services {", *(f"    {rule}" for rule in rules), "  }"]


def _hairpin(family: str, addresses: Sequence[str]) -> list[str]:
    if not addresses:
        return []
    pairs = ", ".join(f"{address} . {address}" for address in addresses)
    return [f"ct status dnat {family} saddr . {family} daddr {{ {pairs} }} masquerade"]


def _family(address: str) -> str:
    return "ip6" if ":" in address else "ip"


def _by_family(addresses: Iterable[str]) -> tuple[list[str], list[str]]:
    ordered = sorted(addresses)
    return [address for address in ordered if ":" not in address], [address for address in ordered if ":" in address]
