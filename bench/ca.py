"""How many certificates a second the CA signs, on one core, over gRPC with TLS; and what a signature costs by itself.

    python -m bench.ca [--seconds 10] [--nodes 200] [--callers 64]

The server is a process of its own, held to one core: the CA as the control plane runs it, with node tokens in files, metrics, and a log
that goes nowhere. Clients are on the other cores. They may well be what is slowest, so what counts is the CPU time of the server per
answer: its inverse is what one core can do. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from prometheus_client import CollectorRegistry

from control.auth.tokens import NodeTokens
from control.ca import CaSettings, CertificateAuthority, DirectoryStore
from control.ca.authority import Authority
from control.ca.csr import public_key
from control.ca.make import Lives, self_made
from control.ca.material import Material, check
from control.ca.rates import Rates
from mesh.io.log import setup
from mesh.model.identity import Identity
from mesh.pb import ca_pb2

NAME = "istiod.istio-system.svc"
METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
ME = Identity("cluster.local", "shop", "cart")


def csr() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(ME))])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def each(work: Callable[[], object], seconds: float = 1.0) -> float:
    """Microseconds of one call."""
    work()
    began, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        work()
        count += 1
    return round(spent / count * 1e6, 1)


def signatures() -> dict[str, float]:
    """Microseconds: of a whole answer by the kind of key that signs, and of its parts."""
    request, now = csr(), datetime.now(UTC)
    found = {}
    ours = self_made("cluster.local", now, Lives())
    for name, material in {"ECDSA P-256": ours, "RSA 2048": _rsa(2048), "RSA 4096": _rsa(4096)}.items():
        authority = Authority(check(material, now, "bench"), material.chain, material.roots, "token")
        found[f"answer, {name}"] = each(lambda authority=authority: authority.sign(request, ME, 3600, 86400))  # type: ignore[misc]
    found["of that: the request read and its signature checked"] = each(lambda: public_key(request))
    key = ec.generate_private_key(ec.SECP256R1())
    found["of that: an ECDSA P-256 signature"] = each(lambda: key.sign(b"x" * 300, ec.ECDSA(hashes.SHA256())))
    return found


def _rsa(bits: int) -> Material:
    key = rsa.generate_private_key(65537, bits)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now.replace(year=now.year + 1))
    root = builder.add_extension(x509.BasicConstraints(True, None), critical=True).sign(key, hashes.SHA256())
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()
    return Material(pem, (), (root.public_bytes(serialization.Encoding.PEM).decode(),))


def serve(directory: Path, core: int, pipe: Connection) -> None:
    """The server's process: until something comes through the pipe."""
    os.sched_setaffinity(0, {core})
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    setup("info", "json")

    async def main() -> None:
        settings = CaSettings("cluster.local", 86400, bundle=directory / "root-cert.pem")
        tokens = NodeTokens(directory / "tokens")
        rates = Rates(1e9, 10**9)  # the bound per caller is not what is measured
        ca = CertificateAuthority(
            settings,
            DirectoryStore(directory / "ca"),
            tokens,
            lambda node, identity: True,
            lambda: (),
            CollectorRegistry(),
            rates=rates,
        )
        await ca.start()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(ca.handlers())
        port = server.add_secure_port("127.0.0.1:0", ca.serving([NAME]).credentials())
        await server.start()
        upkeep = asyncio.create_task(ca.run())
        pipe.send(port)
        await asyncio.to_thread(pipe.recv)
        upkeep.cancel()
        await server.stop(0)

    asyncio.run(main())


async def load(port: int, directory: Path, nodes: int, callers: int, seconds: float) -> tuple[int, list[float]]:
    """Callers ask one after another, each on the channel of its node. How many answers, and how long each took."""
    roots = (directory / "root-cert.pem").read_bytes()
    options = [("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(roots), options=options)
        for _ in range(min(nodes, callers))
    ]
    requests = [csr() for _ in range(64)]
    took: list[float] = []
    end = 0.0

    async def caller(number: int) -> None:
        node = number % len(channels)
        call = channels[node].unary_unary(
            METHOD,
            request_serializer=ca_pb2.IstioCertificateRequest.SerializeToString,
            response_deserializer=ca_pb2.IstioCertificateResponse.FromString,
        )
        metadata = (("authorization", f"Bearer {token_of(node)}"),)
        message = ca_pb2.IstioCertificateRequest(csr=requests[number % len(requests)], validity_duration=3600)
        message.metadata["ImpersonatedIdentity"] = str(ME)
        await call(message, metadata=metadata)
        await ready.wait()
        while (began := time.perf_counter()) < end:
            await call(message, metadata=metadata)
            took.append(time.perf_counter() - began)

    ready = asyncio.Barrier(callers)
    end = time.perf_counter() + seconds + 1
    await asyncio.gather(*(caller(number) for number in range(callers)))
    for channel in channels:
        await channel.close()
    return len(took), took


def token_of(node: int) -> str:
    return f"token-of-node-number-{node:06d}"


def cpu(pid: int) -> float:
    """Seconds of CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def over_grpc(nodes: int, callers: int, seconds: float) -> dict[str, float]:
    with TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "tokens").mkdir()
        for node in range(nodes):
            path = directory / "tokens" / f"node-{node}"
            path.write_text(token_of(node))
            path.chmod(0o600)
        cores = sorted(os.sched_getaffinity(0))
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=serve, args=(directory, cores[0], theirs))
        process.start()
        try:
            port = ours.recv()
            os.sched_setaffinity(0, set(cores[1:]) or set(cores))
            assert process.pid is not None
            before, began = cpu(process.pid), time.perf_counter()
            count, took = asyncio.run(load(port, directory, nodes, callers, seconds))
            wall, spent = time.perf_counter() - began, cpu(process.pid) - before
            ours.send("end")
            process.join(10)
        finally:
            process.kill()
    cuts = quantiles(took, n=100)
    return {
        "answers": count,
        "answers per second": round(count / wall, 1),
        "server's core used": round(spent / wall, 3),
        "server's CPU per answer, µs": round(spent / count * 1e6, 1),
        "answers per second of one core": round(count / spent, 1),
        "p50, ms": round(cuts[49] * 1000, 2),
        "p99, ms": round(cuts[98] * 1000, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--callers", type=int, default=64)
    options = parser.parse_args()
    found = {"signing, µs": signatures(), "over gRPC with TLS": over_grpc(options.nodes, options.callers, options.seconds)}
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
