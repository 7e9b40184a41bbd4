"""`culvert analyze`: what is wrong with manifests, with a cluster, or with a cluster that manifests were applied to."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from control.analyze import CODES, Analysis, Cluster, Given, Options, Severity, analyze, changed
from control.analyze.near import near
from control.resolve import MeshSettings
from culvert.analysis import files
from culvert.analysis.document import document
from culvert.analysis.located import Locator
from culvert.analysis.sarif import sarif
from culvert.analysis.table import table
from culvert.analysis.text import show
from culvert.cli.output import FAILED, OK, UsageError, console, print_json

OUTPUTS = ("text", "json", "sarif")
PATIENCE = 1.0
"""Seconds after which somebody who watches is told what is going on."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for. `kubeconfig` and `context`: the cluster, if one is meant."""

    paths: list[Path] = field(default_factory=list)
    context: str | None = None
    kubeconfig: Path | None = None
    namespace: str = ""
    output: str = "text"
    severity: str = "error"
    ignored: tuple[str, ...] = ()
    root_namespace: str = ""
    trust_domain: str = ""


def run_analyze(asked: Asked) -> int:
    """The exit code: 1 if anything was found that is as grave as was asked for. UsageError, and KubeError where the cluster fails."""
    options, threshold = _options(asked)
    live = _cluster(asked)
    if not asked.paths and live is None:
        raise UsageError("say what to analyze: -f FILE, -f DIR or -f - for standard input; --context NAME for a cluster; or both")
    progress = Progress()
    try:
        given, texts = files.read(asked.paths, sys.stdin)
        if asked.paths and not given.count:
            raise UsageError(f"there is nothing to analyze in {', '.join(map(_shown, asked.paths))}")
        analysis = _analysis(given, bool(asked.paths), live, options, progress)
    finally:
        progress.end()
    _write(asked.output, analysis, texts)
    return FAILED if any(finding.code.severity >= threshold for finding in analysis.findings) else OK


def show_codes() -> None:
    print(table())


def _options(asked: Asked) -> tuple[Options, Severity]:
    if asked.output not in OUTPUTS:
        raise UsageError(f"--output {asked.output} is not accepted; accepted: {', '.join(OUTPUTS)}")
    words = {severity.word: severity for severity in Severity}
    threshold = words.get(asked.severity.lower())
    if threshold is None:
        raise UsageError(f"--severity {asked.severity} is not accepted; accepted: {', '.join(words)}")
    settings = MeshSettings()
    settings = MeshSettings(
        root_namespace=asked.root_namespace or settings.root_namespace, trust_domain=asked.trust_domain or settings.trust_domain
    )
    return Options(settings, asked.namespace, frozenset(_codes(asked.ignored))), threshold


def _codes(given: Iterable[str]) -> Iterable[str]:
    for name in (part.strip().upper() for text in given for part in text.split(",")):
        if name and name not in CODES:
            near = get_close_matches(name, CODES, 1)
            raise UsageError(f"--ignore {name}: there is no such code{f'; did you mean {near[0]}?' if near else ''}")
        if name:
            yield name


def _cluster(asked: Asked) -> Cluster | None:
    if asked.context is None and asked.kubeconfig is None:
        return None
    from culvert.analysis.cluster import LiveCluster, kubeconfig_of

    return LiveCluster(kubeconfig_of(asked.kubeconfig), asked.context or "")


def _analysis(given: Given, has_files: bool, live: Cluster | None, options: Options, progress: Progress) -> Analysis:
    if live is None:
        _look_up(options.namespace, given.namespaces)
        return analyze(given, options, progress.tell)
    progress.tell("listing the cluster")
    cluster = Given()
    cluster.cluster(live.objects())
    _look_up(options.namespace, given.namespaces | cluster.namespaces)
    return changed(given, cluster, options, progress.tell) if has_files else analyze(cluster, options, progress.tell)


def _look_up(namespace: str, known: set[str]) -> None:
    """UsageError for one of which there is nothing: that nothing is found in it says nothing."""
    if namespace and namespace not in known:
        meant = near(namespace, sorted(known))
        raise UsageError(f"--namespace {namespace}: there is nothing of it in the input{f'; did you mean {meant}?' if meant else ''}")


def _shown(path: Path) -> str:
    return "standard input" if str(path) == files.STDIN else str(path)


def _write(output: str, analysis: Analysis, texts: dict[str, str]) -> None:
    locator = Locator(texts)
    located = [locator.locate(finding) for finding in analysis.findings]
    located.sort(key=lambda entry: (entry.file, entry.finding.where if not entry.file else "", entry.line, entry.column))
    if output == "json":
        print_json(document(analysis, located, locator))
    elif output == "sarif":
        print_json(sarif(analysis, located, locator, version("culvert-mesh")))
    else:
        show(console(), analysis, located)


class Progress:
    """A line on a terminal that says what is being done, once that takes longer than people like to wait."""

    def __init__(self, out: Console | None = None, patience: float = PATIENCE) -> None:
        self._status = (out or Console(stderr=True)).status("reading")
        self._timer = threading.Timer(patience, self._status.start)
        self._timer.daemon = True
        if self._status.console.is_terminal:
            self._timer.start()

    def tell(self, what: str) -> None:
        self._status.update(what)

    def wait(self) -> None:
        """Until there is something to see."""
        self._timer.join()

    def end(self) -> None:
        self._timer.cancel()
        self._status.stop()
