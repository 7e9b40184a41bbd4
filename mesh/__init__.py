"""What every process of the mesh shares: pure nouns (`model`), pure protocols (`wire`), and the edge to the system (`io`).

Import direction: `mesh.io` → `mesh.wire` → `mesh.model` → `mesh.pb`. Nothing here imports a process.
"""
