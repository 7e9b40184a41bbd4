"""Proof from packets: what the wire between the nodes shows while marked payloads go through the mesh.

`records`, `streams`, `findings` and `modes` are pure; `packets` parses frames (scapy); `capture` holds the packet sockets, `traffic`
sends the payloads, `world` reads who is who from a playground's state, `proof` draws the conclusion, `report` prints it. Nothing
here trusts what the mesh says of itself.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from culvert.verify.proof import Proof
    from culvert.verify.traffic import Traffic
    from culvert.verify.world import Cluster

PROVED, DISPROVED, CANNOT = 0, 1, 2
SETTLE_SECONDS = 0.3  # from the last byte sent to the end of the capture


def run(state: Path, json: bool) -> int:
    """Capture, send, judge, print. 0: proved; 1: not proved, with every problem named; 2: it could not be tried."""
    # Late imports: the command line must not pay for rich and scapy before somebody verifies.
    from rich.console import Console

    from culvert.verify.world import CannotVerify

    try:
        proof = collect(state)
    except (CannotVerify, OSError, ImportError) as error:
        missing = "scapy is not installed: pip install 'culvert-mesh[verify]'" if isinstance(error, ImportError) else str(error)
        print(f"culvert verify: {missing}", file=sys.stderr)
        return CANNOT
    if json:
        from json import dumps

        from culvert.verify.report import as_json

        print(dumps(as_json(proof), indent=1))
    else:
        from shutil import get_terminal_size

        from culvert.verify.report import show

        # $COLUMNS, or the terminal's; into a file or a pipe rich would assume 80.
        show(proof, Console(highlight=False, width=get_terminal_size((132, 24)).columns))
    return PROVED if proof.proved else DISPROVED


def collect(state: Path) -> Proof:
    """One run against the playground in `state`. Raises CannotVerify, OSError (not root), ImportError (no scapy)."""
    from culvert.verify.capture import Capture
    from culvert.verify.proof import prove
    from culvert.verify.world import CannotVerify, read_cluster

    cluster = read_cluster(state)
    if len(cluster.nodes) < 2:
        raise CannotVerify("there is only one node, so nothing of the mesh is on a wire: use --nodes 2")
    with Capture(cluster.nodes) as capture:
        traffic = asyncio.run(_send(cluster))
    return prove(cluster, traffic, capture.results)


async def _send(cluster: Cluster) -> Traffic:
    from culvert.verify.traffic import send_all

    traffic = await send_all(cluster)
    await asyncio.sleep(SETTLE_SECONDS)
    return traffic
