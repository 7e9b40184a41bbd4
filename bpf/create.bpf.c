/* cgroup/sock_create: no Multipath TCP inside an enrolled pod.
 *
 * The kernel connects the first subflow of an MPTCP socket itself, without asking the connect hooks, so such a socket would leave the pod
 * uncaptured. Programs that use MPTCP are made to meet kernels without it: they see EPROTONOSUPPORT and use TCP.
 */
#include "include/count.h"

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";

SEC("cgroup/sock_create")
int cvt_sock_create(struct bpf_sock *ctx)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	struct culvert_pod *pod;

	if (ctx->protocol != IPPROTO_MPTCP)
		return CULVERT_PROCEED;
	pod = bpf_map_lookup_elem(&cvt_pods, &netns);
	if (!pod || !(pod->flags & CULVERT_POD_CAPTURE))
		return CULVERT_PROCEED;
	refuse(CULVERT_KERNEL_UNREDIRECTABLE, netns, 0, 0);
	bpf_set_retval(-EPROTONOSUPPORT);
	return CULVERT_REFUSE;
}
