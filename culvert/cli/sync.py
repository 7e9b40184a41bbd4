"""`culvert status --control URL`: who has which version, from a control plane anywhere: `kubectl port-forward` makes one reachable."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from culvert.cli.output import FailedError, UsageError, console, count, note, print_json, print_table, warn

TIMEOUT_SECONDS = 10.0
PATH = "/debug/sync"
REFUSALS = "/debug/refusals"
COLOURS = {
    "synced": "green",
    "behind": "yellow",
    "waiting": "yellow",
    "rejected": "red",
    "current": "green",
    "stale": "yellow",
    "not read": "red",
}


def run_sync(url: str, *, as_json: bool) -> int:
    """The exit code: 1 where a client lags or rejected something, a source is not current, or objects are refused."""
    found = _ask(url)
    if as_json:
        print_json(found)
    else:
        show(found)
        for line in refused(found["refused"], url):
            warn(line)
    lagging = [client for client in found["clients"] if state_of(client) != "synced"]
    stale = any(source_state(source) != "current" for source in found["sources"].values())
    return 1 if lagging or stale or found["refused"]["objects"] or found["refused"]["shut"] else 0


def refused(found: dict[str, Any], url: str) -> Iterator[str]:
    """A sentence for each thing that follows, and one that says where the reasons are."""
    if found["shut"]:
        yield "the mesh is shut: a policy that cannot be enforced as written is for all of it, and denies everything"
    for entry in found["denying"]:
        yield f"{entry['consequence']}, since {entry['object'] or entry['file']} is refused"
    if number := found["objects"]:
        yield f"{count(number, 'object')} {'is' if number == 1 else 'are'} refused; {url.rstrip('/')}{REFUSALS} says why"


def show(found: dict[str, Any]) -> None:
    rows = [[name, source_state(source), source["error"] or ""] for name, source in found["sources"].items()]
    print_table(["SOURCE", "STATE", "PROBLEM"], rows, COLOURS)
    console().print()
    for problem in found["problems"]:
        warn(problem)
    rows = []
    for client in found["clients"]:
        types = client["types"].values()
        accepted = min((one["accepted"] for one in types), default=0)
        waits = max((one["waiting_seconds"] or 0 for one in types), default=0)
        problem = "; ".join(one["error"] for one in types if one["error"])
        rows.append(
            [
                client["client"],
                client["kind"],
                state_of(client),
                f"{accepted} of {client['number']}",
                sum(one["behind"] for one in types),
                f"{waits:.0f} s" if waits else "-",
                problem or "-",
            ]
        )
    print_table(["CLIENT", "KIND", "STATE", "VERSION", "BEHIND", "WAITS", "PROBLEM"], rows, COLOURS, ["WAITS", "BEHIND"])
    if not rows:
        note("nobody is connected")


def state_of(client: dict[str, Any]) -> str:
    """`synced`: it has accepted all that there is. `waiting`: for its answer; `behind`: something is still to be sent."""
    types = client["types"].values()
    if any(one["error"] for one in types):
        return "rejected"
    if types and all(one["synced"] for one in types):
        return "synced"
    return "waiting" if any(one["waiting_seconds"] is not None for one in types) else "behind"


def source_state(source: dict[str, Any]) -> str:
    if not source["synced"]:
        return "not read"
    return "current" if source["stale_seconds"] is None else "stale"


def _ask(url: str) -> dict[str, Any]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise UsageError(f"--control {url}: expected http://HOST:PORT of a control plane's port for metrics and debugging (15014)")
    try:
        connection = http.client.HTTPConnection(parts.hostname, parts.port or 15014, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", PATH)
            reply = connection.getresponse()
            if reply.status != http.client.OK:
                raise FailedError(f"{url}{PATH} answers {reply.status} {reply.reason}")
            found: dict[str, Any] = json.loads(reply.read())
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise FailedError(f"{url} does not answer as a control plane would: {error}") from error
    return found
