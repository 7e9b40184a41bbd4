"""The tier that runs against other people's software: a real API server and etcd, whole nodes, Consul.

Every test here is marked `cluster` and needs what `make tools` builds; without it the tier fails and says so, it never skips.
One module per program that is run; `conftest.py` has the fixtures, `test_harness.py` proves that they do what they say.

    tools, ports, processes     where programs are, which ports are ours, how one is started, awaited and ended
    pki, api                    certificates and tokens; a small client of the API server
    etcd, apiserver             a private control plane of Kubernetes, without nodes, ready in seconds
    faultproxy                  the same API server through a proxy that misbehaves on request
    nodes, images, janitor      two whole nodes with pods; and what cleans up after a run that was killed
    consul                      a real agent
"""
