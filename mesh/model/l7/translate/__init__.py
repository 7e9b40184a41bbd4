"""Manifests → the L7 model. Pure functions of what has been looked up already: none searches the mesh.

    ports              one port of one service: which of its routes count, and what they become. Begin here
    virtual_service    VirtualServices, with delegates        gateway_http, gateway_grpc    HTTPRoutes and GRPCRoutes on a service
    l4                 TCP and TLS routes of both kinds       grpc                          what of a route proxyless gRPC can do
    destination_rule   DestinationRules → clusters            balancing                     endpoints, localities, priorities
    workload           a workload addressed by itself
    authorization      AuthorizationPolicies                  tokens                        RequestAuthentications
    telemetry          Telemetries

Each returns `Translated`: a value, and notes on what of the manifests is not in it as written.
"""
