"""Proof from packets: what the wire between the nodes shows while marked payloads go through the mesh.

`records`, `streams` and `findings` are pure; `packets` parses frames (scapy); `capture` holds the packet sockets, `traffic` sends the
payloads, `world` reads who is who from a playground's state, `report` prints. Nothing here trusts what the mesh says of itself.
"""
