"""The one list of reasons: the same word appears in the access log, the metric label, the CLI and the kernel counter.

Every refusal, failure and early end of a connection names exactly one of these. `flag` is the value of Istio's
`response_flags` label for it, so that dashboards made for Istio keep their meaning; `word` is ours and says more.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """One reason. `word` is stable API; `flag` is Istio's coarser response flag; `hint` says what an operator would do next."""

    word: str
    flag: str
    hint: str

    def __new__(cls, word: str, flag: str, hint: str) -> Reason:
        member = object.__new__(cls)
        member._value_ = word
        member.word, member.flag, member.hint = word, flag, hint
        return member

    OK = ("ok", "-", "")

    # Refused by decision, outbound.
    UNKNOWN_SOURCE = ("unknown_source", "IDENTITY_ERROR", "the control plane has not announced this pod; is it connected?")
    SELF_CALL = ("self_call", "DENY", "an app connected to one of the tunnel's own ports")
    NO_ORIGINAL_DESTINATION = ("no_original_destination", "-", "the connection was not captured by the kernel programs")
    NO_HEALTHY_UPSTREAM = ("no_healthy_upstream", "CONNECT", "no endpoint of the service is healthy and has this port")
    WAYPOINT_UNAVAILABLE = ("waypoint_unavailable", "CONNECT", "the service names a waypoint that has no healthy endpoint")
    OTHER_NETWORK = ("other_network", "CONNECT", "the destination is on another network, which is not supported")

    # Refused by decision, inbound.
    POLICY_DENY = ("policy_deny", "DENY", "a DENY policy matches")
    POLICY_NO_ALLOW = ("policy_no_allow", "DENY", "ALLOW policies select this workload and none of them matches")
    POLICY_MISSING = ("policy_missing", "DENY", "a policy that this workload names has not arrived from the control plane")
    POLICY_UNENFORCEABLE = ("policy_unenforceable", "DENY", "a policy that selects this workload cannot be enforced at L4")
    POLICY_REVOKED = ("policy_revoked", "DENY", "a policy change denies this connection, which was open")
    MTLS_REQUIRED = ("mtls_required", "DENY", "PeerAuthentication STRICT: plaintext is refused; enrol the client")
    UNKNOWN_WORKLOAD = ("unknown_workload", "IDENTITY_ERROR", "the control plane has not announced the destination pod")
    BAD_METHOD = ("bad_method", "-", "the peer sent something else than CONNECT to the HBONE port")
    BAD_AUTHORITY = ("bad_authority", "-", "the CONNECT authority cannot be read as ip:port")
    AUTHORITY_MISMATCH = ("authority_mismatch", "-", "the CONNECT authority is not an address of this pod")

    # The other side failed its checks.
    TLS_VERSION = ("tls_version", "TLS_FAILURE", "the peer does not speak TLS 1.3")
    TLS_HANDSHAKE = ("tls_handshake", "TLS_FAILURE", "the TLS handshake failed")
    TLS_TIMEOUT = ("tls_timeout", "TLS_FAILURE", "the TLS handshake did not finish in time")
    ALPN_MISMATCH = ("alpn_mismatch", "TLS_FAILURE", "the peer did not agree on ALPN h2")
    CERTIFICATE_MISSING = ("certificate_missing", "TLS_FAILURE", "the peer sent no certificate")
    CERTIFICATE_EXPIRED = ("certificate_expired", "TLS_FAILURE", "the peer's certificate is outside its dates; check the clocks")
    CERTIFICATE_UNTRUSTED = ("certificate_untrusted", "TLS_FAILURE", "the peer's certificate does not chain to our roots")
    NO_SPIFFE_ID = ("no_spiffe_id", "TLS_FAILURE", "the peer's certificate carries no SPIFFE id")
    WRONG_TRUST_DOMAIN = ("wrong_trust_domain", "TLS_FAILURE", "the peer's SPIFFE id is of another trust domain")
    IDENTITY_MISMATCH = ("identity_mismatch", "IDENTITY_ERROR", "the peer is not the workload that was expected at this address")
    H2_PROTOCOL = ("h2_protocol", "H2_HANDSHAKE_FAILURE", "the peer broke HTTP/2")
    H2_FLOOD = ("h2_flood", "H2_HANDSHAKE_FAILURE", "the peer sent more HTTP/2 control frames than is sane")
    H2_TIMEOUT = ("h2_timeout", "H2_HANDSHAKE_FAILURE", "the peer did not answer HTTP/2 SETTINGS or PING in time")
    GOAWAY = ("goaway", "CONNECT", "the peer's tunnel is shutting down")
    PEER_BAD_REQUEST = ("peer_bad_request", "CONNECT", "the peer's tunnel answered 400: the authority is not its pod")
    PEER_DENIED = ("peer_denied", "DENY", "the peer's tunnel answered 401: a policy at the destination denies it")
    PEER_UNAVAILABLE = ("peer_unavailable", "CONNECT", "the peer's tunnel answered 503: the app did not accept")
    PEER_STATUS = ("peer_status", "CONNECT", "the peer's tunnel answered with a status that is not 200")

    # The system under us, or the other end, gave way.
    CONNECT_FAILED = ("connect_failed", "CONNECT", "the TCP connect was refused or unreachable")
    CONNECT_TIMEOUT = ("connect_timeout", "NETWORK_POLICY", "no answer to the TCP connect; a NetworkPolicy may block port 15008")
    NO_CERTIFICATE = ("no_certificate", "IDENTITY_ERROR", "we hold no valid certificate for this pod; is the CA reachable?")
    RESET_BY_SOURCE = ("reset_by_source", "-", "the client reset the connection")
    RESET_BY_DESTINATION = ("reset_by_destination", "-", "the server reset the connection")
    TUNNEL_LOST = ("tunnel_lost", "CONNECT", "the tunnel connection that carried this stream broke")
    FDS_EXHAUSTED = ("fds_exhausted", "-", "the process is out of file descriptors; raise its limit")
    TOO_MANY_CONNECTIONS = ("too_many_connections", "-", "the configured bound of connections is reached")
    DRAINING = ("draining", "-", "the tunnel is shutting down and its drain time is over")
    POD_REMOVED = ("pod_removed", "-", "the pod left the mesh or was deleted")
    ZDS_PROTOCOL = ("zds_protocol", "-", "the other end of the ZDS socket broke its protocol; is it a tunnel or agent of another version?")
    ZDS_TIMEOUT = ("zds_timeout", "-", "the other end of the ZDS socket did not answer in time")
    XDS_PROTOCOL = ("xds_protocol", "-", "the control plane sent what was not asked for; is it one for node tunnels?")
    INTERNAL = ("internal", "-", "a bug of ours; the log has the traceback")

    # The kernel programs. Their numbers are in bpf/include/abi.h; a test holds both lists equal.
    KERNEL_NO_LISTENER = ("kernel_no_listener", "-", "an enrolled pod's tunnel listener is not there; inbound is refused")
    KERNEL_UNKNOWN_ADDRESS = ("kernel_unknown_address", "-", "inbound to an address of an enrolled pod that is not registered")
    KERNEL_NO_STORAGE = ("kernel_no_storage", "-", "the kernel could not remember a destination; the connect is refused")
    KERNEL_TUNNEL_PORT = ("kernel_tunnel_port", "-", "an app connected to the tunnel's ports on loopback; refused")
    KERNEL_UNREDIRECTABLE = (
        "kernel_unredirectable",
        "-",
        "the kernel would not redirect this socket (it is bound to a device?); refused",
    )
    KERNEL_NODE_PROBE = ("kernel_node_probe", "-", "a process of the node itself (kubelet) reached an enrolled pod directly")


WORDS: dict[str, Reason] = {reason.word: reason for reason in Reason}
