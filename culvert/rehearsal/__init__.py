"""A drill of the CA in a running playground: everything that it signs with is replaced while connections are made and held, and none may
fail.

`client` talks to the CA, `load` makes the connections, `drill` goes through the phases, `report` says what came of it.
"""
