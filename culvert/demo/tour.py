"""The steps of the tour, in order. Each says what it shows, does it, and checks it; the first that is not as told ends the tour."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from culvert.cli.target import program
from culvert.demo.stage import NotAsTold, Stage, resident_mb, told
from culvert.verify.findings import Kind, judge
from culvert.verify.world import read_cluster

SHOP, OUTSIDE = "bookstore", "outsider"
SHOPPER, OUTSIDER = f"{SHOP}/shopper", f"{OUTSIDE}/outsider"
LABEL = "istio.io/dataplane-mode=ambient"
PROPAGATION_SECONDS = 10.0
INTERRUPTED = 130  # the exit code, as shells have it

Step = Callable[[], None]


def make_console() -> Console:
    """As wide as the terminal; where there is none, wide enough for an identity."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 132)


class Tour:
    """The playground on stage, what was seen so far, and the console."""

    def __init__(self, stage: Stage, examples: Path) -> None:
        self.stage = stage
        self.examples = examples
        self.console = make_console()
        self.pids: dict[str, int] = {}

    def steps(self) -> list[tuple[str, Step]]:
        return [
            ("Before the label: a call between two nodes can be read by anybody on the wire", self.before),
            ("The label: mutual TLS, and no process was restarted", self.label),
            ("The proof, from packets", self.proof),
            ("A DENY by identity, with the policy and the rule that said so", self.deny),
            ("STRICT refuses whoever is outside the mesh", self.strict),
            ("One call, two access-log lines: both ends name both identities", self.two_lines),
            ("What it costs in memory", self.memory),
        ]

    # The steps

    def before(self) -> None:
        source, target = self.stage.apart(SHOP, "storefront", "catalog")
        self.pids = self.stage.pids(SHOP)
        marker = f"no-secret-{secrets.token_hex(8)}"
        url = f"http://{target['ips'][0]}:8080/books?card={marker}"
        answer, frames, _ = self.stage.watch(lambda: self._get(f"{SHOP}/{source['name']}", url))
        told("TCP/IP Illustrated" in answer, f"the catalog did not answer: {answer[:200]}")
        readable = next((frame for frame in frames if marker.encode() in frame), None)
        told(readable is not None, "the request was not seen on the wire, although there is no mesh yet")
        assert readable is not None
        line = readable[readable.index(b"GET ") :].split(b"\r\n")[0].decode()
        self.seen(f"{source['name']} on {source['node']} → {target['name']} on {target['node']}, on the wire between them:")
        self.console.print(f"      [red]{line}[/]")

    def label(self) -> None:
        began = time.monotonic()
        self.stage.culvert("label", "namespace", SHOP, LABEL)
        self.stage.wait("every pod of the shop to be in the mesh", lambda: all(pod["mesh"] == "enabled" for pod in self.stage.pods(SHOP)))
        self.seen(f"{len(self.stage.pods(SHOP))} pods in the mesh {time.monotonic() - began:.1f} s after the label")
        source, target = self.stage.apart(SHOP, "storefront", "catalog")
        marker = f"a-secret-{secrets.token_hex(8)}"
        for address in target["ips"]:
            host = f"[{address}]" if ":" in address else address
            self._until_meshed(f"{SHOP}/{source['name']}", f"http://{host}:8080/books?card={marker}", marker)
        self.seen("the same call, over IPv4 and IPv6: every byte of it inside TLS 1.3 to port 15008")
        told(self.stage.pids(SHOP) == self.pids, f"processes changed: {self.pids} became {self.stage.pids(SHOP)}")
        self.seen(f"the shop's {len(self.pids)} processes are the same as before, by process id")
        self._shop_works()
        self.seen("the shop works: storefront → catalog → MariaDB (its server speaks first), storefront → orders → Redis, nginx's pages")

    def proof(self) -> None:
        ran = self.stage.culvert("verify", check=False, quiet=False)
        told(ran.code == 0, f"culvert verify ended with {ran.code}")

    def deny(self) -> None:
        redis = self._one("redis")
        code = "from stores import redis; print(redis('redis', 'PING'))"
        told("PONG" in self.stage.python(SHOPPER, code).out, "redis did not answer the shopper before there was a policy")
        self.stage.culvert("apply", "-f", str(self.examples / "bookstore-policies/callers.yaml"))
        since = self.stage.log_size(redis["node"])
        self._until_refused("the policy to refuse the shopper", lambda: self.stage.python(SHOPPER, code, check=False).code == 0)
        line = self._access(
            redis["node"], since, lambda entry: entry.get("reason") == "policy_deny" and entry.get("src.workload") == "shopper"
        )
        told(
            "bookstore/redis-keep-out" in line["error"] and "rule[0]" in line["error"], f"the log names no policy and rule: {line['error']}"
        )
        self.seen(f"[red]refused[/]: {line['src.identity']} → {line['dst.workload']}")
        self.console.print(f"      {line['error']}")
        self._shop_works()
        self.seen("everybody else goes on: orders reaches Redis, and only catalog reaches MariaDB")
        mysql = self.stage.python(SHOPPER, "from stores import mysql; print(mysql('mariadb', 'SELECT 1'))", check=False)
        told(mysql.code != 0, "the shopper reached MariaDB, which an ALLOW policy keeps for catalog")

    def strict(self) -> None:
        pages = self._one("pages")
        url = "http://pages.bookstore:80/"
        told("nginx" in self._get(OUTSIDER, url), "while the shop is permissive, an outsider must reach its pages")
        self.seen("permissive: the outsider reads nginx's pages in plaintext")
        self.stage.culvert("apply", "-f", str(self.examples / "bookstore-policies/strict.yaml"))
        since = self.stage.log_size(pages["node"])
        self._until_refused("STRICT to refuse the outsider", lambda: "nginx" in self._get(OUTSIDER, url, check=False))
        line = self._access(pages["node"], since, lambda entry: entry.get("reason") == "mtls_required")
        self.seen("[red]strict: refused[/]")
        self.console.print(f"      {line['error']}")
        told("nginx" in self._get(SHOPPER, url), "the shopper, who is in the mesh, must still reach the pages")
        self.seen("the shopper, who is in the mesh, still reads them")

    def two_lines(self) -> None:
        source, target = self.stage.apart(SHOP, "storefront", "catalog")
        marks = {node: self.stage.log_size(node) for node in (source["node"], target["node"])}
        self._get(f"{SHOP}/{source['name']}", f"http://{target['ips'][0]}:8080/books")
        wanted = {"src.workload": source["name"], "dst.workload": target["name"]}
        lines = []
        for node, direction in ((source["node"], "outbound"), (target["node"], "inbound")):
            match = {**wanted, "direction": direction}
            lines.append(self._access(node, marks[node], lambda entry, match=match: match.items() <= entry.items()))  # type: ignore[misc]
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("")
        for pod, direction in ((source, "outbound"), (target, "inbound")):
            table.add_column(f"{direction}, logged on {pod['node']}", overflow="fold")
        for key in dict.fromkeys([*lines[0], *lines[1]]):
            if key not in ("level", "scope", "message", "direction"):
                table.add_row(key, *(str(line.get(key, "")) for line in lines))
        self.console.print(table)
        for line in lines:
            told("/sa/storefront" in line.get("src.identity", ""), f"no source identity in {line}")
            told("/sa/catalog" in line.get("dst.identity", ""), f"no destination identity in {line}")
        told(lines[0]["bytes_sent"] > 0 and lines[0]["bytes_recv"] > 0, f"no bytes counted in {lines[0]}")

    def memory(self) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in ("process", "node"):
            table.add_column(column)
        table.add_column("resident", justify="right")
        for process in self.stage.status()["processes"]:
            told(process["ready"] and process["pid"], f"{process['name']} is not ready: {process['detail']}")
            table.add_row(process["kind"], process["node"], f"{resident_mb(process['pid']):.0f} MB")
        self.console.print(table)

    # What steps share

    def seen(self, text: str) -> None:
        self.console.print(f"   [green]✓[/] {text}")

    def _get(self, pod: str, url: str, *, check: bool = True) -> str:
        return self.stage.python(pod, f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).read().decode())", check=check).out

    def _one(self, app: str) -> dict[str, Any]:
        return next(pod for pod in self.stage.pods(SHOP) if pod["labels"].get("app") == app)

    def _shop_works(self) -> None:
        code = (
            "from web import call; b=call('http://storefront:8080/'); o=call('http://storefront:8080/buy/2', 'POST'); "
            "import urllib.request as u; p=u.urlopen('http://pages/', timeout=5).read(); print(b, o, p)"
        )
        out = self.stage.python(SHOPPER, code).out
        told(all(word in out for word in ("TCP/IP Illustrated", "'order':", "real nginx")), f"the shop does not work: {out[:400]}")

    def _until_meshed(self, pod: str, url: str, marker: str) -> None:
        """Repeat a call until it goes through the tunnel; then look at that one: tunnel port only, TLS only, no marker anywhere.

        The label reaches kernel, tunnels and peers within a moment, not at one: a call in between may still be plain.
        """
        deadline = time.monotonic() + PROPAGATION_SECONDS
        cluster = read_cluster(self.stage.layout.state)
        while True:
            answer, frames, flows = self.stage.watch(lambda: self._get(pod, url))
            told("TCP/IP Illustrated" in answer, f"the catalog did not answer through the mesh: {answer[:200]}")
            findings = [judge(flow, cluster.world, (), [marker.encode()]) for flow in flows]
            mesh = [finding for finding in findings if finding.kind is Kind.MESH]
            wrong = [finding for finding in findings if finding.wrong]
            clear = any(marker.encode() in frame for frame in frames)
            if mesh and not wrong and not clear:
                return
            how = "; ".join(finding.wrong or finding.detail for finding in findings)
            told(time.monotonic() < deadline, f"{PROPAGATION_SECONDS:g} s after the label the call is not inside the mesh: {how}")

    def _until_refused(self, what: str, answered: Callable[[], bool]) -> None:
        self.stage.wait(what, lambda: not answered(), PROPAGATION_SECONDS)

    def _access(self, node: str, since: int, match: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        def find() -> dict[str, Any]:
            return next((entry for entry in self.stage.access_lines(node, since) if match(entry)), {})

        return self.stage.wait(f"the access-log line on {node}", find, 5.0)


def tour(name: str, examples: Path, *, keep: bool) -> int:
    """0: every step was as told; 1: one was not (said which and how); 130: interrupted, which is nobody's fault."""
    began = time.monotonic()
    stage = Stage(name)
    show = Tour(stage, examples)
    code = 1
    try:
        stage.culvert("down")  # what a tour before us left running has its label already
        stage.culvert("up", "-f", str(examples / "bookstore"), "--nodes", "2", quiet=False)
        for number, (title, step) in enumerate(show.steps(), 1):
            show.console.print(f"\n[bold cyan]{number}  {title}[/]")
            step()
        code = 0
    except KeyboardInterrupt:
        show.console.print("\n[bold]interrupted[/]" + ("" if keep else "; taking the playground down"))
        code = INTERRUPTED
    except (NotAsTold, OSError) as error:
        show.console.print(Text.assemble(("\n✗ not as told: ", "bold red"), str(error) or type(error).__name__))
        _last_words(stage, show.console)
    finally:
        if keep:
            show.console.print(f"\nleft running; take it down with: {program()} down --name {name}")
        else:
            ended = stage.culvert("down", check=False)
            if ended.code:
                show.console.print(Text.assemble(("✗ culvert down: ", "bold red"), ended.error))
                code = code or 1
    if code == 0:
        show.console.print(f"\n[bold green]All as told[/] ({time.monotonic() - began:.0f} s).")
    return code


def _last_words(stage: Stage, console: Console) -> None:
    """What the tunnels, agents and the control plane said last: the first thing that anybody would ask for."""
    for path in sorted(stage.layout.logs.glob("*.log")):
        if path.name.endswith((".ztunnel.log", ".agent.log", "control.log", "supervisor.log")):
            lines = path.read_text(errors="replace").splitlines()
            # What went wrong, as far as it was said, and then what happened at the end.
            wrong = [line for line in lines if '"level":"info"' not in line][-12:]
            last = [line for line in lines[-4:] if line not in wrong]
            console.print(Text(f"-- {path.name}\n" + "\n".join(line[:600] for line in wrong + last), style="dim"), soft_wrap=True)


TRY = """
The bookstore is up, in the mesh, on two nodes. Try:
  {culvert} status{n}
  {culvert} exec{n} -n bookstore shopper -- curl -s storefront:8080
  {culvert} exec{n} -n outsider outsider -- curl -s pages.bookstore
  {culvert} verify{n}
  {culvert} apply{n} -f examples/bookstore-policies
  {culvert} logs{n} node-1.ztunnel
  {culvert} down{n}
"""


def leave_running(name: str, examples: Path) -> int:
    stage = Stage(name)
    console = make_console()
    try:
        stage.culvert("up", "-f", str(examples / "bookstore"), "--nodes", "2", quiet=False)
        stage.culvert("label", "namespace", SHOP, LABEL, quiet=False)
        stage.wait("every pod of the shop to be in the mesh", lambda: all(pod["mesh"] == "enabled" for pod in stage.pods(SHOP)))
    except NotAsTold as error:
        console.print(Text.assemble(("✗ ", "bold red"), str(error)))
        return 1
    console.print(TRY.format(culvert=program(), n="" if name == "culvert" else f" --name {name}"))
    return 0
