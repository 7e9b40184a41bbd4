"""`python -m tests.interop.grpc_client TARGET`: a gRPC client in a process of its own, since its xDS configuration is the process's.

Each line of standard input is a JSON object of metadata, each line of output what came of one call: a name, or the status.
"""

from __future__ import annotations

import json
import sys

import grpc

from tests.interop.grpc_echo import METHOD, SERVICE, read


def main() -> None:
    channel = grpc.insecure_channel(sys.argv[1])
    call = channel.unary_unary(f"/{SERVICE}/{METHOD}")
    for line in sys.stdin:
        metadata = tuple(json.loads(line).items())
        try:
            print(read(call(b"", timeout=15, metadata=metadata)), flush=True)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", flush=True)


if __name__ == "__main__":
    main()
