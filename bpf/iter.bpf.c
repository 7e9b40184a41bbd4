/* iter/tcp: adopts the tunnel's plaintext listener when it got its mark only after listen(2), as Istio's tunnel does it.
 *
 * The agent runs it inside the pod's namespace after the tunnel's acknowledgement. A registered listener is not replaced. Needs a kernel
 * whose iterator holds the socket by lock_sock (6.5); before that the update would wait for itself.
 */
#define CULVERT_KERNEL_TYPES /* relocated at load: this file reads struct sock */
#include "include/maps.h"

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";

SEC("iter/tcp")
int cvt_adopt_listeners(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct culvert_listener key = {};
	struct tcp_sock *tcp;

	if (!common || common->skc_state != BPF_TCP_LISTEN || common->skc_num != CULVERT_PORT_INBOUND)
		return 0;
	tcp = bpf_skc_to_tcp_sock(common);
	if (!tcp || !culvert.mark || tcp->inet_conn.icsk_inet.sk.sk_mark != culvert.mark)
		return 0;
	key.netns = common->skc_net.net->net_cookie;
	key.family = common->skc_family;
	bpf_map_update_elem(&cvt_listeners, &key, common, BPF_NOEXIST);
	return 0;
}
