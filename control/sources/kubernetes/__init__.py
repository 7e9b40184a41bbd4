"""The Kubernetes source: what an API server holds, listed and watched.

    source = KubernetesSource(Api(Access()), meter=meter, book=keeper.book("kubernetes"))
    await source.run(sink)
    held = await list_all(Api(Access(kubeconfig, context)))    # for tools that look once

`kinds` says what is watched and `discovery` which of it the cluster serves. One `reflector` per kind lists, watches and recovers; what
it knows is a `ledger`, whose decisions are pure. `wire` and `core` make objects of JSON, `read` refuses what is none. `source` is the
`Feed` over all of them. Nothing here resolves or judges: an object is handed over as the parser gives it, or as refused.
"""

from control.sources.kubernetes.kinds import Kind
from control.sources.kubernetes.meter import Meter, NoMeter
from control.sources.kubernetes.once import list_all
from control.sources.kubernetes.read import Live
from control.sources.kubernetes.source import KubernetesSource
from control.sources.kubernetes.tuning import Tuning

__all__ = ["Kind", "KubernetesSource", "Live", "Meter", "NoMeter", "Tuning", "list_all"]
