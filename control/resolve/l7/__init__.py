"""From objects to what proxies are told of requests: routes, clusters, endpoints, listeners.

views      for whom: a waypoint, an Envoy beside a client, a gRPC client
lookup     what users wrote about a host, as one of them sees it
ports      routes and chains of one port of one service
around     policies that routes lead around
through    services with a waypoint, as clients see them
backends   clusters and their endpoints
plans      which resources a view needs, and each of them in its wire form
"""
