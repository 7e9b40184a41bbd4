/* cgroup/getsockopt: answers SO_ORIGINAL_DST on the tunnel's accepted sockets, without conntrack.
 *
 * IPv4 (and v4-mapped) destinations are answered at SOL_IP, IPv6 ones at SOL_IPV6, whatever the family of the listening socket. Where we
 * have no answer it is ENOENT and the tunnel refuses the connection. The kernel's own answer must not stand: where connections are
 * tracked it is loopback:15001, the tunnel itself. Namespaces that are not ours keep theirs (a sidecar may listen on 15001, too).
 */
#include "include/address.h"
#include "include/count.h"

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";

#define PAGE 4096

static __always_inline struct culvert_endpoint *original(struct bpf_sock *sk, __u64 netns)
{
	struct culvert_flow flow = { .netns = netns };

	if (sk->family == AF_INET) {
		flow.local.addr = addr_from4(sk->dst_ip4);
		BARRIER();
	} else {
		flow.local.addr = ADDR_READ6(sk->dst_ip6);
	}
	flow.local.port = sk->dst_port;
	return bpf_map_lookup_elem(&cvt_originals, &flow);
}

SEC("cgroup/getsockopt")
int cvt_getsockopt(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct culvert_endpoint *found;
	__u8 *out = ctx->optval;
	__u64 netns;

	if (ctx->optname != SO_ORIGINAL_DST || (ctx->level != SOL_IP && ctx->level != SOL_IPV6)) {
		/* The kernel hands programs one page; a larger answer would be lost if we did not tell it to keep its own. */
		if (ctx->optlen > PAGE)
			ctx->optlen = 0;
		return CULVERT_PROCEED;
	}
	if (!sk || sk->src_port != CULVERT_PORT_OUTBOUND)
		return CULVERT_PROCEED;
	netns = bpf_get_netns_cookie(ctx);
	found = original(sk, netns); /* also when the pod has just left: its last captured connections are still to be carried */
	if (!found && !bpf_map_lookup_elem(&cvt_pods, &netns))
		return CULVERT_PROCEED;
	if (!found || addr_is4(&found->addr) != (ctx->level == SOL_IP)) {
		bpf_set_retval(-ENOENT);
		return CULVERT_PROCEED;
	}
	if (ctx->level == SOL_IP) {
		struct sockaddr_in *sin = (void *)out;

		if (out + sizeof(*sin) > (__u8 *)ctx->optval_end)
			return CULVERT_PROCEED;
		__builtin_memset(sin, 0, sizeof(*sin));
		sin->sin_family = AF_INET;
		sin->sin_port = found->port;
		sin->sin_addr.s_addr = found->addr.word[3];
		ctx->optlen = sizeof(*sin);
	} else {
		struct sockaddr_in6 *sin6 = (void *)out;

		if (out + sizeof(*sin6) > (__u8 *)ctx->optval_end)
			return CULVERT_PROCEED;
		__builtin_memset(sin6, 0, sizeof(*sin6));
		sin6->sin6_family = AF_INET6;
		sin6->sin6_port = found->port;
		__builtin_memcpy(&sin6->sin6_addr, &found->addr, sizeof(found->addr));
		ctx->optlen = sizeof(*sin6);
	}
	ctx->retval = 0;
	return CULVERT_PROCEED;
}
