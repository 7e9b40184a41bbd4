/* cgroup/connect4 and connect6: an app of an enrolled pod connects; its TCP goes to the tunnel's listener on loopback.
 *
 * Runs before the route lookup, for connect(2), for TCP Fast Open (sendmsg with MSG_FASTOPEN) and for connects made by io_uring or
 * by kernel threads, and for the subflows of Multipath TCP, which so fall back to plain TCP with the tunnel. The same hook prepares the
 * tunnel's own deliveries to the app. Anything that is not TCP is untouched.
 *
 * Limit: an app that binds to a source address which its namespace does not have (IP_TRANSPARENT) is captured, and its connect times out,
 * since the tunnel's answer leaves by the wire. It does not get out uncaptured.
 */
#include "include/address.h"
#include "include/count.h"

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";

enum dial {
	DIAL_PASS,     /* leave the destination alone */
	DIAL_REDIRECT, /* rewrite it to loopback:15001 */
};

/* The tunnel connects to the app in the client's name. Bound to lo, sk_lookup can tell it from traffic of the wire; with mark 0x111
 * the app's accepted socket inherits a mark (tcp_fwmark_accept) that routes its replies over lo. The secret mark is taken off here:
 * the app could read it from its accepted socket. */
static __always_inline int deliver(struct bpf_sock_addr *ctx, __u64 netns, const struct culvert_endpoint *to)
{
	int mark = CULVERT_MARK_DELIVERY, lo = CULVERT_LOOPBACK_IFINDEX;

	if (bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) ||
	    bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &lo, sizeof(lo))) {
		refuse(CULVERT_KERNEL_UNREDIRECTABLE, netns, 0, to);
		return -EPERM;
	}
	count(CULVERT_DELIVERED);
	return DIAL_PASS;
}

static __always_inline int capture(struct bpf_sock_addr *ctx, struct bpf_sock *sk, __u64 netns, const struct culvert_pod *pod,
				   const struct culvert_endpoint *to)
{
	struct culvert_capture *slot = bpf_sk_storage_get(&cvt_wanted, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	int any_device = 0;

	if (!slot) {
		refuse(CULVERT_KERNEL_NO_STORAGE, netns, 0, to);
		return -ENOBUFS;
	}
	/* A socket that is bound to eth0 would look for loopback there, and time out. */
	if (sk->bound_dev_if && sk->bound_dev_if != CULVERT_LOOPBACK_IFINDEX &&
	    bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &any_device, sizeof(any_device))) {
		refuse(CULVERT_KERNEL_UNREDIRECTABLE, netns, 0, to);
		return -EPERM;
	}
	slot->asked = *to;
	slot->own = addr_is4(&to->addr) ? pod->own4 : pod->own6;
	count(CULVERT_CAPTURED);
	return DIAL_REDIRECT;
}

/* The tunnel would relay such a connection to itself until its descriptors run out. */
static __always_inline int refuse_tunnel_port(__u64 netns, const struct culvert_endpoint *to)
{
	refuse(CULVERT_KERNEL_TUNNEL_PORT, netns, 0, to);
	return -ECONNREFUSED;
}

/* DIAL_*, or a negative errno for the app. */
static __always_inline int dial(struct bpf_sock_addr *ctx, const struct culvert_endpoint *to)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	__u16 port = bpf_ntohs(to->port);
	struct bpf_sock *sk = ctx->sk; /* one load: the verifier forgets a null check if the field is read again */
	struct culvert_home *home;
	struct culvert_pod *pod;
	bool own;

	if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP || !sk)
		return DIAL_PASS;
	pod = bpf_map_lookup_elem(&cvt_pods, &netns);
	if (!pod)
		return DIAL_PASS;
	home = bpf_map_lookup_elem(&cvt_addresses, &to->addr);
	own = home && home->netns == netns;

	if (culvert.mark && sk->mark == culvert.mark) {
		if (!own || port == CULVERT_PORT_HBONE)
			return DIAL_PASS;
		return is_tunnel_port(port) ? refuse_tunnel_port(netns, to) : deliver(ctx, netns, to);
	}
	if (own || addr_is_local(&to->addr)) {
		if (is_tunnel_port(port))
			return refuse_tunnel_port(netns, to);
		if (own)
			count(CULVERT_SELF_CALL);
		return DIAL_PASS;
	}
	if (!(pod->flags & CULVERT_POD_CAPTURE) || addr_is_multicast(&to->addr))
		return DIAL_PASS;
	if (addr_is_link_local6(&to->addr)) {
		count(CULVERT_LINK_LOCAL);
		return DIAL_PASS;
	}
	return capture(ctx, sk, netns, pod, to);
}

static __always_inline int verdict(int outcome)
{
	if (outcome >= 0)
		return CULVERT_PROCEED;
	bpf_set_retval(outcome);
	return CULVERT_REFUSE;
}

SEC("cgroup/connect4")
int cvt_connect4(struct bpf_sock_addr *ctx)
{
	struct culvert_endpoint to = { .addr = addr_from4(ctx->user_ip4), .port = ctx->user_port };
	int outcome = dial(ctx, &to);

	if (outcome == DIAL_REDIRECT) {
		ctx->user_ip4 = bpf_htonl(0x7f000001);
		ctx->user_port = bpf_htons(CULVERT_PORT_OUTBOUND);
	}
	return verdict(outcome);
}

SEC("cgroup/connect6")
int cvt_connect6(struct bpf_sock_addr *ctx)
{
	struct culvert_endpoint to = { .addr = ADDR_READ6(ctx->user_ip6), .port = ctx->user_port };
	int outcome = dial(ctx, &to);

	if (outcome == DIAL_REDIRECT) {
		struct culvert_addr loopback = addr_loopback(&to.addr);

		ctx->user_ip6[0] = loopback.word[0];
		ctx->user_ip6[1] = loopback.word[1];
		ctx->user_ip6[2] = loopback.word[2];
		ctx->user_ip6[3] = loopback.word[3];
		ctx->user_port = bpf_htons(CULVERT_PORT_OUTBOUND);
	}
	return verdict(outcome);
}
