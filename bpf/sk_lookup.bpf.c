/* sk_lookup, one link per enrolled namespace: which socket gets an inbound TCP connection.
 *
 * Runs for the first packet only (and again for a SYN cookie's answer), before the kernel looks for a listener. Everything that reaches
 * a pod's address goes to the tunnel's plaintext listener; what passes straight to the app is listed here, and nothing else does.
 * SK_DROP answers with a reset. This hook has no namespace cookie, so the address leads to it.
 */
#include "include/address.h"
#include "include/count.h"

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";

static __always_inline int drop(enum culvert_counter why, __u64 netns, const struct culvert_tuple *tuple)
{
	refuse(why, netns, &tuple->client, &tuple->server);
	return SK_DROP;
}

/* The pod calls itself: addresses of one pod, or loopback (packets from the wire with such a source are not accepted by the kernel, or,
 * for IPv6, cannot complete a handshake). */
static __always_inline bool is_self_call(const struct culvert_tuple *tuple, const struct culvert_home *home)
{
	struct culvert_home *from = bpf_map_lookup_elem(&cvt_addresses, &tuple->client.addr);

	return addr_is_local(&tuple->client.addr) || (from && from->netns == home->netns);
}

static __always_inline int steer(struct bpf_sk_lookup *ctx, const struct culvert_tuple *tuple, __u64 netns)
{
	struct culvert_listener key = { .netns = netns, .family = ctx->family };
	struct bpf_sock *sk = bpf_map_lookup_elem(&cvt_listeners, &key);
	long error;

	if (!sk && key.family == AF_INET) { /* a dual-stack socket serves both */
		key.family = AF_INET6;
		sk = bpf_map_lookup_elem(&cvt_listeners, &key);
	}
	if (!sk)
		return drop(CULVERT_KERNEL_NO_LISTENER, netns, tuple);
	/* Exactly this socket: an app of the same user could put its own into the listener's SO_REUSEPORT group. */
	error = bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_NO_REUSEPORT);
	bpf_sk_release(sk);
	if (error)
		return drop(CULVERT_KERNEL_NO_LISTENER, netns, tuple);
	count(CULVERT_STEERED);
	return SK_PASS;
}

SEC("sk_lookup")
int cvt_sk_lookup(struct bpf_sk_lookup *ctx)
{
	struct culvert_tuple tuple = {};
	struct culvert_home *home;

	if (ctx->protocol != IPPROTO_TCP || ctx->ingress_ifindex == CULVERT_LOOPBACK_IFINDEX || ctx->local_port == CULVERT_PORT_HBONE)
		return SK_PASS;
	if (ctx->family == AF_INET) {
		tuple.client.addr = addr_from4(ctx->remote_ip4);
		tuple.server.addr = addr_from4(ctx->local_ip4);
		BARRIER();
	} else {
		tuple.client.addr = ADDR_READ6(ctx->remote_ip6);
		tuple.server.addr = ADDR_READ6(ctx->local_ip6);
	}
	tuple.client.port = ctx->remote_port;
	tuple.server.port = bpf_htons(ctx->local_port);

	home = bpf_map_lookup_elem(&cvt_addresses, &tuple.server.addr);
	if (!home)
		return drop(CULVERT_KERNEL_UNKNOWN_ADDRESS, 0, &tuple);
	if (is_self_call(&tuple, home))
		return is_tunnel_port(ctx->local_port) ? drop(CULVERT_KERNEL_TUNNEL_PORT, home->netns, &tuple) : SK_PASS;
	if (bpf_map_lookup_elem(&cvt_probes, &tuple)) {
		count(CULVERT_KERNEL_NODE_PROBE);
		return SK_PASS;
	}
	return steer(ctx, &tuple, home->netns);
}
