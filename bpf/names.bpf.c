/* cgroup/getpeername and getsockname: an app with a captured socket keeps seeing the peer it asked for and its own pod's address.
 *
 * Only a socket that is connected to loopback:15001 right now is answered for: the storage may be left over from a connect that failed
 * or was undone (connect with AF_UNSPEC).
 */
#include "include/address.h"
#include "include/count.h"

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";

static __always_inline struct culvert_capture *captured(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk || sk->dst_port != bpf_htons(CULVERT_PORT_OUTBOUND))
		return 0;
	return bpf_sk_storage_get(&cvt_wanted, sk, 0, 0);
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
	struct culvert_capture *c = captured(ctx);

	if (c && names_peer(&shown)) {
		ctx->user_ip4 = c->asked.addr.word[3];
		ctx->user_port = c->asked.port;
	}
	return CULVERT_PROCEED;
}

SEC("cgroup/getpeername6")
int cvt_getpeername6(struct bpf_sock_addr *ctx)
{
	struct culvert_endpoint shown = { .addr = ADDR_READ6(ctx->user_ip6), .port = ctx->user_port };
	struct culvert_capture *c = captured(ctx);

	if (c && names_peer(&shown)) {
		WRITE6(ctx, c->asked.addr);
		ctx->user_port = c->asked.port;
	}
	return CULVERT_PROCEED;
}

SEC("cgroup/getsockname4")
int cvt_getsockname4(struct bpf_sock_addr *ctx)
{
	struct culvert_addr shown = addr_from4(ctx->user_ip4);
	struct culvert_capture *c = captured(ctx);

	if (c && names_self(c, &shown))
		ctx->user_ip4 = c->own.word[3];
	return CULVERT_PROCEED;
}

SEC("cgroup/getsockname6")
int cvt_getsockname6(struct bpf_sock_addr *ctx)
{
	struct culvert_addr shown = ADDR_READ6(ctx->user_ip6);
	struct culvert_capture *c = captured(ctx);

	if (c && names_self(c, &shown))
		WRITE6(ctx, c->own);
	return CULVERT_PROCEED;
}
