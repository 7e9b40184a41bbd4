/* The contract between the kernel programs and the agent: every number and every structure that both sides read.
 *
 * agent/bpf/abi.py mirrors this file; tests/bpf/test_abi.py compares the two through BTF, so that neither can drift.
 * A change of a structure that lives in a pinned map needs a new CULVERT_ABI_VERSION (below): an agent refuses to adopt pins of
 * another version. All addresses are 16 bytes in network order; IPv4 is written v4-mapped (::ffff:a.b.c.d), so that one body
 * serves both families. Ports that are named `port` are in network order too.
 */
#pragma once

/* Istio's ports, opened by the tunnel inside every enrolled pod's namespace. */
enum culvert_port {
	CULVERT_PORT_OUTBOUND = 15001,
	CULVERT_PORT_INBOUND = 15006,
	CULVERT_PORT_HBONE = 15008,
};

enum culvert_number {
	CULVERT_ABI_VERSION = 1,
	CULVERT_LOOPBACK_IFINDEX = 1,      /* `lo` is 1 in every network namespace */
	CULVERT_MARK_DELIVERY = 0x111,     /* on deliveries to the app, and so on the app's accepted sockets: routed over lo */
	CULVERT_MARK_TUNNEL_LOW = 0x539,   /* the low 12 bits of the tunnel's mark; the upper 20 are a secret */
	CULVERT_EVENT_BURST = 20,          /* events per reason, per CPU and second that reach the ring buffer; all are counted */
	CULVERT_POD_CAPTURE = 1,           /* culvert_pod.flags: outbound connections are captured */
};

/* Index into the per-CPU array `counters`. The names from NO_LISTENER to UNREDIRECTABLE are KERNEL_* of
 * mesh/model/reasons.py; the ones before are not refusals. */
enum culvert_counter {
	CULVERT_CAPTURED,         /* outbound connections handed to the tunnel */
	CULVERT_STEERED,          /* inbound lookups answered with the tunnel's plaintext listener */
	CULVERT_DELIVERED,        /* connections that the tunnel made to an app of its own pod */
	CULVERT_SELF_CALL,        /* an app connected to its own pod's address; not captured */
	CULVERT_LINK_LOCAL,       /* an app connected to an IPv6 link-local address: it has no meaning in another process; not captured */
	CULVERT_KERNEL_NO_LISTENER,
	CULVERT_KERNEL_UNKNOWN_ADDRESS,
	CULVERT_KERNEL_NO_STORAGE,
	CULVERT_KERNEL_TUNNEL_PORT,
	CULVERT_KERNEL_NODE_PROBE,
	CULVERT_KERNEL_UNREDIRECTABLE,
	CULVERT_COUNTERS,
};

struct culvert_addr {
	__be32 word[4];
};

struct culvert_endpoint {
	struct culvert_addr addr;
	__be16 port;
	__u16 reserved;
};

/* Constants that the agent writes into .rodata.culvert before it loads the object; the verifier sees their values. */
struct culvert_constants {
	__u64 node_netns;  /* cookie of the node's own network namespace: only its sockets may probe pods; 0: none may */
	__u32 mark;        /* SO_MARK of every tunnel socket, secret in the upper 20 bits; 0 never matches anything */
	__u32 reserved;
};

/* Map `config`, one entry, written and read by agents only: what the next agent must know to adopt these pins. */
struct culvert_config {
	__u32 abi_version; /* always the first field, in every version */
	__u32 mark;
	__u64 node_netns;
};

/* Map `pods`: network namespace cookie -> */
struct culvert_pod {
	struct culvert_addr own4; /* what getsockname of a captured IPv4 socket shows; all zero when the pod has none */
	struct culvert_addr own6;
	__u32 flags;              /* CULVERT_POD_* */
	__u32 reserved;
};

/* Map `addresses`: struct culvert_addr of a pod -> */
struct culvert_home {
	__u64 netns;
};

/* Map `listeners` (SOCKHASH): the tunnel's listener for inbound plaintext of one namespace. */
struct culvert_listener {
	__u64 netns;
	__u32 family; /* of the socket; AF_INET6 may serve IPv4 as well */
	__u32 reserved;
};

/* Map `originals`: the app's end of a captured connection -> the culvert_endpoint that it asked for. */
struct culvert_flow {
	__u64 netns;
	struct culvert_endpoint local;
	__u32 reserved;
};

/* Map `probes`: one connection from the node's own namespace to a registered pod address. */
struct culvert_tuple {
	struct culvert_endpoint client;
	struct culvert_endpoint server;
};

/* Map `wanted` (socket storage of the app's captured socket). */
struct culvert_capture {
	struct culvert_endpoint asked; /* where the app meant to go: getpeername's answer */
	struct culvert_addr own;       /* the pod's address of that family: getsockname's answer; all zero when there is none */
};

/* Map `events` (ring buffer): one refusal. */
struct culvert_event {
	__u64 time;    /* ns, CLOCK_MONOTONIC */
	__u64 netns;   /* cookie of the pod's namespace; 0 when not known */
	struct culvert_endpoint source;      /* all zero when not known yet */
	struct culvert_endpoint destination;
	__u32 counter; /* enum culvert_counter */
	__u32 reserved;
};
