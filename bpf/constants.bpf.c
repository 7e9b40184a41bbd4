/* The load-time constants of all programs, described in include/abi.h. One section of their own, so that it holds nothing else. */
#include "include/kernel.h"

char LICENSE[] SEC("license") __weak = "Dual BSD/GPL";

const volatile struct culvert_constants culvert SEC(".rodata.culvert") = {};
