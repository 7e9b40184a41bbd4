"""A stand-in for the agent that can be killed: loads or adopts an instance, says so in one line of JSON, and waits for its end.

python -m tests.bpf.loader <instance> <node cookie> [<cookie>=<netns path>=<ip>,<ip> …]
"""

from __future__ import annotations

import json
import os
import sys
from ipaddress import ip_address

from agent.bpf import Programs


def main() -> None:
    instance, node_cookie, *pods = sys.argv[1:]
    programs = Programs.load_or_adopt(instance, node_cookie=int(node_cookie))
    for spec in pods:
        cookie, path, addresses = spec.split("=")
        netns = os.open(path, os.O_RDONLY)
        programs.enrol(int(cookie), netns, [ip_address(ip) for ip in addresses.split(",")])
        os.close(netns)
    enrolled = {cookie: sorted(map(str, addresses)) for cookie, addresses in programs.enrolled().items()}
    print(json.dumps({"mark": programs.mark, "enrolled": enrolled}), flush=True)
    sys.stdin.read()


main()
