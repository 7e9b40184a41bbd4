"""Services of a Consul catalogue: their instances become endpoints, their tags subsets.

source   the `Feed`: three blocking queries, readers, and what they learn handed over
catalog  what is known and what to ask next; cursor: the index of a blocking query. Both pure
wire     Consul's answers to frozen values; translate, names: those to objects of the mesh. All pure
client, errors   HTTP, and what can go wrong with it
settings, tuning, pace, meter
"""
