"""The L7 model as Envoy's v3 messages: for Envoy as a waypoint, Envoy as a client's proxy, and proxyless gRPC.

    parts, state                        small messages; filter state
    routes, clusters, endpoints, tls    RouteConfiguration, Cluster, ClusterLoadAssignment and what is in them
    rbac, jwt, logs                     policies, tokens, telemetry
    filters, matching                   filter chains, and the tree that chooses among them
    terminate, waypoint                 the listeners of a waypoint: where tunnels end, and what comes after
    client, grpc                        listeners of a client's proxy; everything for proxyless gRPC
    secrets, bootstrap                  certificates; what an Envoy is started with

What each kind of client is served, over one ADS stream:

    waypoint   LDS terminate.listener, waypoint.main_internal, .connect_originate, .connect_direct
               RDS terminate.route_table, routes.route_table per port      SDS secrets.secret: `default`, `ROOTCA`
               CDS clusters.main_internal, .connect_originate, .black_hole, .cluster per port and subset      EDS endpoints.assignment
    client     LDS client.listener per port, .http_proxy or .virtual_outbound, waypoint.connect_originate
               RDS routes.route_table per port, routes.joined for `http_proxy`      SDS as above
               CDS clusters.connect_originate, .passthrough, .black_hole, .cluster      EDS endpoints.assignment
    gRPC       LDS grpc.listener      RDS grpc.route_table      CDS grpc.cluster      EDS grpc.assignment, and grpc.black_hole of both

All of it is deterministic: equal models give equal bytes (`parts.serialized`).
"""
