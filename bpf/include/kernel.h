/* What every program includes: kernel types from BTF, libbpf's helpers, and the macros that BTF cannot carry. */
#pragma once

/* Contexts and socket views are the kernel's stable interface, at fixed offsets; relocatable access to them makes clang compute context
 * pointers, which the verifier refuses. A file that reads the kernel's own structures defines CULVERT_KERNEL_TYPES first. */
#ifndef CULVERT_KERNEL_TYPES
#define BPF_NO_PRESERVE_ACCESS_INDEX
#endif
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define AF_INET 2
#define AF_INET6 10
#define SOL_SOCKET 1
#define SOL_IP 0
#define SOL_IPV6 41
#define SO_MARK 36
#define SO_BINDTOIFINDEX 62
#define SO_ORIGINAL_DST 80 /* the same number at SOL_IP and SOL_IPV6 */
#define EPERM 1
#define ENOENT 2
#define ENOBUFS 105
#define ECONNREFUSED 111

/* A cgroup program's verdicts. */
#define CULVERT_REFUSE 0
#define CULVERT_PROCEED 1
