"""The L7 model: what a waypoint, an Envoy or a proxyless gRPC client does with requests. Frozen nouns, and pure translations into them.

    texts, routes, tcp      how a request or a connection is told apart, and what becomes of it
    clusters, endpoints     where it goes: pools, balancing, health, TLS; and who is there
    policies, jwt, telemetry, secrets
    chains                  what one port of one service is made of; a listener is many of them
    names, profile, notes   what things are called, for whom they are made, what there is to say about them
    translate/              manifests of users → the above

The model is the same for every proxy. What one of them cannot do is the business of its encoder (`mesh.model.codec.envoy`), which says so.
"""
