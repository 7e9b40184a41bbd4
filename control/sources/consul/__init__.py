"""Services of a Consul catalogue: their instances become endpoints, their tags subsets.

`source` is the `Feed`, made of `watch` (a blocking query, asked for ever) and readers. What it knows and asks next is `catalog`, with
`cursor` for the index of a blocking query; what answers look like is `wire`; what services are here is `translate`, with `names` for tags.
All of these are pure. `client` and `errors` are HTTP and what can go wrong with it; `keeping` is what survives a restart of ours.
"""
