"""Pure nouns and decisions: identities, workloads, policies, routes, reasons, and the codecs that are their only door.

No asyncio, socket, ssl, os, time or random here: whatever varies comes in as an argument.
"""
