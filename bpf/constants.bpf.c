/* The load-time constants of all programs, described in include/abi.h. One section of their own, so that it holds nothing else. */
#include "include/kernel.h"

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";

const volatile struct culvert_constants culvert SEC(".rodata.culvert") = {};

/* Types that no map mentions, kept in the object's BTF for the test of the ABI. libbpf skips a section of this name. */
const struct {
	enum culvert_port port;
	enum culvert_number number;
	enum culvert_counter counter;
	struct culvert_event event;
} culvert_types SEC(".culvert.abi") = {};
