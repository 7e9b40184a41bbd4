/* The family-neutral view of addresses: hooks copy in and out, everything else sees 16 bytes (IPv4 is v4-mapped). */
#pragma once

#include "kernel.h"

/* Reads word by word: a context field may only be read at its own width, and only directly from the context.
 * The barrier keeps clang from merging both families' reads into one computed context pointer, which the verifier refuses. */
#define ADDR_READ6(field) ((struct culvert_addr){ { (field)[0], (field)[1], (field)[2], (field)[3] } })
#define BARRIER() asm volatile("" ::: "memory")

#define CULVERT_MAPPED bpf_htonl(0xffff) /* word 2 of a v4-mapped address */

static __always_inline struct culvert_addr addr_from4(__be32 v4)
{
	struct culvert_addr a = { { 0, 0, CULVERT_MAPPED, v4 } };
	return a;
}

static __always_inline bool addr_is4(const struct culvert_addr *a)
{
	return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == CULVERT_MAPPED;
}

static __always_inline bool addr_is_zero(const struct culvert_addr *a)
{
	return (a->word[0] | a->word[1] | a->word[2] | a->word[3]) == 0;
}

/* 127/8 and ::1. The unspecified address counts too: Linux connects 0.0.0.0 and :: to loopback (or to the socket's own address). */
static __always_inline bool addr_is_local(const struct culvert_addr *a)
{
	if (addr_is4(a))
		return a->word[3] == 0 || (bpf_ntohl(a->word[3]) >> 24) == 127;
	return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == 0 && (a->word[3] == 0 || a->word[3] == bpf_htonl(1));
}

/* Multicast and IPv4 broadcast: TCP cannot connect there, and the kernel says so itself. */
static __always_inline bool addr_is_multicast(const struct culvert_addr *a)
{
	if (addr_is4(a))
		return (bpf_ntohl(a->word[3]) >> 28) == 0xe || a->word[3] == 0xffffffff;
	return (bpf_ntohl(a->word[0]) >> 24) == 0xff;
}

/* fe80::/10. The interface it is meant on is not visible here, so the tunnel could not dial it. */
static __always_inline bool addr_is_link_local6(const struct culvert_addr *a)
{
	return (bpf_ntohl(a->word[0]) & 0xffc00000) == 0xfe800000;
}

static __always_inline bool is_tunnel_port(__u16 host_order)
{
	return host_order == CULVERT_PORT_OUTBOUND || host_order == CULVERT_PORT_INBOUND || host_order == CULVERT_PORT_HBONE;
}

/* 127.0.0.1 or ::1, whichever family `like` is of. */
static __always_inline struct culvert_addr addr_loopback(const struct culvert_addr *like)
{
	struct culvert_addr v6 = { { 0, 0, 0, bpf_htonl(1) } };
	return addr_is4(like) ? addr_from4(bpf_htonl(0x7f000001)) : v6;
}

/* The local end of a socket, as the kernel's own lookup sees it. */
static __always_inline void sk_local_end(struct bpf_sock *sk, struct culvert_endpoint *out)
{
	if (sk->family == AF_INET) {
		out->addr = addr_from4(sk->src_ip4);
		BARRIER();
	} else {
		out->addr = ADDR_READ6(sk->src_ip6);
	}
	out->port = bpf_htons(sk->src_port);
}
