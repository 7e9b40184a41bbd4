"""The tier that runs against other people's software: a real API server and etcd, whole nodes, Consul.

Every test here is marked `cluster` and needs what `make tools` builds; without it the tier fails and says so, it never skips.
One module per program that is run; `conftest.py` has the fixtures, `test_harness*.py` prove that they do what they say.

    tools, ports, processes     where programs are, which ports are ours, how one is started, awaited and ended
    pki, api                    certificates and tokens; a small client of the API server
    etcd, apiserver             a private control plane of Kubernetes, without nodes, ready in seconds
    faults, faultproxy          what may go wrong on the way to the API server, and the proxy that makes it so
    nodes                       whole nodes with pods; wiring: their network; nodeconfig, node.sh: their daemons; images; janitor: after a
                                run that was killed
    consul                      a real agent
"""
