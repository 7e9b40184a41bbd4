"""A gRPC client in a process of its own, since what gRPC knows of its control plane it reads once per process.

python grpc_client.py xds:///app.shop:80     lines of JSON in: {"method", "headers", "timeout", "count"}; out: [[code, text], …]
"""

from __future__ import annotations

import json
import sys

import grpc


def main(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        for line in sys.stdin:
            wanted = json.loads(line)
            call = channel.unary_unary(wanted["method"])
            futures = [
                call.future(
                    b"",
                    metadata=list(wanted.get("headers", {}).items()),
                    timeout=wanted.get("timeout", 20),
                    wait_for_ready=wanted.get("wait", True),
                )
                for _ in range(wanted.get("count", 1))
            ]
            answers = []
            for future in futures:
                try:
                    answers.append(["OK", future.result().decode()])
                except grpc.RpcError as error:
                    answers.append([error.code().name, error.details()])  # type: ignore[attr-defined]
            print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
