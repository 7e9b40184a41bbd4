"""The L7 model as Envoy's v3 messages: for Envoy as a waypoint, Envoy as a client's proxy, and proxyless gRPC.

    parts                               small messages
    routes, clusters, endpoints, tls    RouteConfiguration, Cluster, ClusterLoadAssignment and what is in them
    rbac, jwt, logs                     policies, tokens, telemetry
    filters                             filter chains: the connection manager and TCP proxy with everything before them
    waypoint, client, grpc              listeners of the three kinds, and the clusters that these need
    secrets, bootstrap                  certificates; what an Envoy is started with

All of it is deterministic: equal models give equal bytes (`parts.serialized`).
"""
