/* sockops: what is only known once TCP itself acts.
 *
 * TCP_CONNECT: the local port of a captured socket is known now; under {namespace, local end} the tunnel will ask for the original
 * destination. A connect from the node's own namespace to a pod (the kubelet's probe) is remembered by its four-tuple.
 * TCP_LISTEN: the tunnel's plaintext listener registers itself for steering, before its first connection can arrive.
 */
#include "include/address.h"
#include "include/count.h"

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";

/* The two ends of the socket. remote_port is in network order in the upper half of a word on little-endian and big-endian alike. */
static __always_inline void read_ends(struct bpf_sock_ops *ctx, struct culvert_endpoint *local, struct culvert_endpoint *remote)
{
	if (ctx->family == AF_INET) {
		local->addr = addr_from4(ctx->local_ip4);
		remote->addr = addr_from4(ctx->remote_ip4);
		BARRIER();
	} else {
		local->addr = ADDR_READ6(ctx->local_ip6);
		remote->addr = ADDR_READ6(ctx->remote_ip6);
	}
	local->port = bpf_htons(ctx->local_port);
	remote->port = bpf_htons((__u16)bpf_ntohl(ctx->remote_port));
}

static __always_inline void on_connect(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	__u64 netns = bpf_get_netns_cookie(ctx), now = bpf_ktime_get_ns();
	struct culvert_endpoint local = {}, remote = {};

	read_ends(ctx, &local, &remote);
	if (remote.port == bpf_htons(CULVERT_PORT_OUTBOUND) && addr_is_local(&remote.addr)) {
		struct culvert_capture *c = bpf_sk_storage_get(&cvt_wanted, sk, 0, 0);
		struct culvert_flow flow = { .netns = netns, .local = local };

		/* If this fails the tunnel gets no answer and refuses the connection. */
		if (c)
			bpf_map_update_elem(&cvt_originals, &flow, &c->asked, BPF_ANY);
	} else if (netns == culvert.node_netns && bpf_map_lookup_elem(&cvt_addresses, &remote.addr)) {
		struct culvert_tuple tuple = { .client = local, .server = remote };

		/* The entry must not outlive the socket: masqueraded traffic may later leave from the same address and port. */
		if (!bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG))
			bpf_map_update_elem(&cvt_probes, &tuple, &now, BPF_ANY);
	}
}

static __always_inline void on_close(struct bpf_sock_ops *ctx)
{
	struct culvert_tuple tuple = {};

	if (bpf_get_netns_cookie(ctx) != culvert.node_netns)
		return;
	read_ends(ctx, &tuple.client, &tuple.server);
	bpf_map_delete_elem(&cvt_probes, &tuple);
}

/* The secret mark proves that it is our tunnel's socket, so this does not wait for the pod to be enrolled: the agent enrols a pod
 * after the tunnel listens, and no connection is refused in between. */
static __always_inline void on_listen(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct culvert_listener key = { .netns = bpf_get_netns_cookie(ctx), .family = ctx->family };

	if (ctx->local_port != CULVERT_PORT_INBOUND || sk->mark != culvert.mark || !culvert.mark)
		return;
	/* A failure shows: the namespace has no listener, and inbound is refused and counted. */
	bpf_sock_hash_update(ctx, &cvt_listeners, &key, BPF_ANY);
}

SEC("sockops")
int cvt_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return CULVERT_PROCEED;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_connect(ctx, sk);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		on_listen(ctx, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE)
			on_close(ctx);
		break;
	}
	return CULVERT_PROCEED;
}
