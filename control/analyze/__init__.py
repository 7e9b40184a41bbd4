"""What is wrong with manifests, or with a cluster, beyond single objects: findings with stable codes. Pure.

    given = Given()
    given.file("shop.yaml", text)
    analysis = analyze(given, Options())

`given` is what came in; `world` resolves it as the control plane would and indexes it; one module per kind of thing looks for what is
wrong with that; `codes` lists what can be found. A finding follows from the resolution wherever that knows: it is not decided again here.
"""

from control.analyze.analysis import Analysis, Options, analyze, changed
from control.analyze.codes import CODES, Code, Severity
from control.analyze.findings import Finding
from control.analyze.given import Cluster, Given

__all__ = ["CODES", "Analysis", "Cluster", "Code", "Finding", "Given", "Options", "Severity", "analyze", "changed"]
