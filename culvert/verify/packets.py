"""Captured frames to TCP segments. The only module that uses scapy (95 MB): it is imported when `verify` runs and never before."""

from __future__ import annotations

from ipaddress import ip_address

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Padding

from culvert.verify.streams import ACK, Segment
from mesh.model.workload import SocketAddress

ICMPV6 = 58


def parse(frame: bytes) -> Segment | str | None:
    """A TCP segment; a sentence for what is neither TCP nor the network's own housekeeping; None for that (ARP, ICMP, ND, MLD)."""
    packet = Ether(frame)
    if ARP in packet:
        return None
    if IP in packet:
        layer, protocol = packet[IP], packet[IP].proto
        if layer.frag or layer.flags.MF:
            return f"an IPv4 fragment from {layer.src} to {layer.dst}"
    elif IPv6 in packet:
        layer = packet[IPv6]
        protocol = layer.nh if IPv6ExtHdrHopByHop not in packet else packet[IPv6ExtHdrHopByHop].nh
    else:
        return f"a frame of type 0x{packet.type:04x} from {packet.src}"
    if TCP in packet:
        tcp = packet[TCP]
        payload = bytes(tcp.payload) if not isinstance(tcp.payload, Padding) else b""
        if Padding in packet:
            payload = payload[: len(payload) - len(packet[Padding].load)] if payload else payload
        flags = int(tcp.flags)
        ends = [SocketAddress(ip_address(layer.src), tcp.sport), SocketAddress(ip_address(layer.dst), tcp.dport)]
        return Segment(ends[0], ends[1], tcp.seq, flags, payload, tcp.ack if flags & ACK else None)
    if ICMP in packet or protocol == ICMPV6:
        return None
    if UDP in packet:
        return f"UDP from {layer.src} port {packet[UDP].sport} to {layer.dst} port {packet[UDP].dport}"
    return f"IP protocol {protocol} from {layer.src} to {layer.dst}"
