"""What the control plane asks of a Kubernetes API server beside its objects: leases, status, events, secrets, and the client for all of it.

Only this package and `control.sources.kubernetes` (and the authenticator in `control.auth.kubernetes`, which uses this client) know a
Kubernetes client library. What goes wrong on the other side comes out of here as a `KubeError`, whose type says what helps.
"""
