"""What the CA counts, under Istio's `citadel_*` names where Istio has one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from control.ca.authority import Authority
from control.exposition import IstioCounter

PROBLEMS = ("store", "mount", "renewal", "publish", "expiry")


class CaMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> IstioCounter:
            return IstioCounter(name, text, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self.csr = counter("citadel_server_csr_count", "Certificate requests")
        self.csr_failed = Counter("culvert_ca_csr_failures", "Refused certificate requests, by kind", ["kind"], registry=registry)
        self.unauthenticated = counter("citadel_server_authentication_failure_count", "Certificate requests of nobody known")
        self.bad_identity = counter("citadel_server_id_extraction_err_count", "Certificate requests for what is no identity")
        self.bad_csr = counter("citadel_server_csr_parsing_err_count", "Certificate requests that cannot be taken")
        self.sign_errors = counter("citadel_server_csr_sign_err_count", "Certificate requests that could not be signed")
        self.issued = counter("citadel_server_success_cert_issuance_count", "Certificates issued")
        self.root_expiry = gauge("citadel_server_root_cert_expiry_timestamp", "When the root expires, Unix seconds")
        self.root_left = gauge("citadel_server_root_cert_expiry_seconds", "Seconds until the root expires")
        self.chain_expiry = gauge("citadel_server_cert_chain_expiry_timestamp", "When what signs expires, Unix seconds")
        self.chain_left = gauge("citadel_server_cert_chain_expiry_seconds", "Seconds until what signs expires")
        self.problems = gauge("culvert_ca_problem", "1 while the CA has a problem of this kind; the last good state is in force", "kind")
        self.followers = gauge("culvert_ca_followers", "Nodes that are told of changes of the CA")
        self.behind = gauge("culvert_ca_followers_behind", "Of these, those that have not renewed for the last change")
        self.turned_away = Counter(
            "culvert_ca_followers_turned_away", "Streams of followers for which there was no place", ["reason"], registry=registry
        )
        for kind in PROBLEMS:
            self.problems.labels(kind).set(0)

    def refused(self, kind: str) -> None:
        """No certificate, for this kind of reason; under Istio's names, where it has one for that."""
        self.csr_failed.labels(kind).inc()
        match kind:
            case "authentication_failure":
                self.unauthenticated.inc()
            case "bad_identity":
                self.bad_identity.inc()
            case "csr_error":
                self.bad_csr.inc()
            case "expired" | "busy":
                self.sign_errors.inc()

    def expiry(self, authority: Authority, now: float) -> None:
        root, chain = authority.root.not_valid_after_utc.timestamp(), authority.not_after.timestamp()
        self.root_expiry.set(root)
        self.root_left.set(root - now)
        self.chain_expiry.set(chain)
        self.chain_left.set(chain - now)
