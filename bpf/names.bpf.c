/* cgroup/getpeername and getsockname: an app with a captured socket keeps seeing the peer it asked for and its own pod's address.
 *
 * Only a socket that is connected to loopback:15001 right now is answered for: the storage may be left over from a connect that failed
 * or was undone (connect with AF_UNSPEC).
 */
#include "include/address.h"
#include "include/count.h"

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";

/* Storage hangs on the TCP socket. An MPTCP socket's is on its first subflow, which is not visible here; that subflow's local end is, and
 * leads to the destination (but no longer than the LRU keeps it). */
static __always_inline bool captured(struct bpf_sock_addr *ctx, struct culvert_capture *out)
{
	struct culvert_flow flow = { .netns = bpf_get_netns_cookie(ctx) };
	struct bpf_sock *sk = ctx->sk;
	struct culvert_endpoint *asked;
	struct culvert_capture *stored;
	struct culvert_pod *pod;

	if (!sk || sk->dst_port != bpf_htons(CULVERT_PORT_OUTBOUND))
		return false;
	stored = bpf_sk_storage_get(&cvt_wanted, sk, 0, 0);
	if (stored) {
		*out = *stored;
		return true;
	}
	if (ctx->protocol != IPPROTO_MPTCP)
		return false;
	sk_local_end(sk, &flow.local);
	asked = bpf_map_lookup_elem(&cvt_originals, &flow);
	pod = bpf_map_lookup_elem(&cvt_pods, &flow.netns);
	if (!asked || !pod)
		return false;
	out->asked = *asked;
	out->own = addr_is4(&asked->addr) ? pod->own4 : pod->own6;
	return true;
}

static __always_inline bool names_peer(const struct culvert_endpoint *shown)
{
	return shown->port == bpf_htons(CULVERT_PORT_OUTBOUND) && addr_is_local(&shown->addr);
}

/* A socket that the app bound itself already shows the address it chose. */
static __always_inline bool names_self(const struct culvert_capture *c, const struct culvert_addr *shown)
{
	return addr_is_local(shown) && !addr_is_zero(&c->own);
}

#define WRITE6(ctx, a)                          \
	do {                                    \
		(ctx)->user_ip6[0] = (a).word[0]; \
		(ctx)->user_ip6[1] = (a).word[1]; \
		(ctx)->user_ip6[2] = (a).word[2]; \
		(ctx)->user_ip6[3] = (a).word[3]; \
	} while (0)

SEC("cgroup/getpeername4")
int cvt_getpeername4(struct bpf_sock_addr *ctx)
{
	struct culvert_endpoint shown = { .addr = addr_from4(ctx->user_ip4), .port = ctx->user_port };
	struct culvert_capture c;

	if (captured(ctx, &c) && names_peer(&shown)) {
		ctx->user_ip4 = c.asked.addr.word[3];
		ctx->user_port = c.asked.port;
	}
	return CULVERT_PROCEED;
}

SEC("cgroup/getpeername6")
int cvt_getpeername6(struct bpf_sock_addr *ctx)
{
	struct culvert_endpoint shown = { .addr = ADDR_READ6(ctx->user_ip6), .port = ctx->user_port };
	struct culvert_capture c;

	if (captured(ctx, &c) && names_peer(&shown)) {
		WRITE6(ctx, c.asked.addr);
		ctx->user_port = c.asked.port;
	}
	return CULVERT_PROCEED;
}

SEC("cgroup/getsockname4")
int cvt_getsockname4(struct bpf_sock_addr *ctx)
{
	struct culvert_addr shown = addr_from4(ctx->user_ip4);
	struct culvert_capture c;

	if (captured(ctx, &c) && names_self(&c, &shown))
		ctx->user_ip4 = c.own.word[3];
	return CULVERT_PROCEED;
}

SEC("cgroup/getsockname6")
int cvt_getsockname6(struct bpf_sock_addr *ctx)
{
	struct culvert_addr shown = ADDR_READ6(ctx->user_ip6);
	struct culvert_capture c;

	if (captured(ctx, &c) && names_self(&c, &shown))
		WRITE6(ctx, c.own);
	return CULVERT_PROCEED;
}
