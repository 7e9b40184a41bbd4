"""Objects in force → what clients are told, kept up to date change by change. Pure.

`engine` is how; `tables` is what comes in; `policies`, `services`, `workloads` are what follows; `mesh` puts them together.
"""

from control.resolve.mesh import Batch, Changes, Mesh
from control.resolve.tables import MeshSettings

__all__ = ["Batch", "Changes", "Mesh", "MeshSettings"]
