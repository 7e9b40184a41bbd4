/* Every map. Each hook's object carries these weak definitions; `bpftool gen object` folds them into one.
 *
 * The agent pins all maps except .rodata, which belongs to one load of the programs. The prefix keeps them apart from the kernel types of vmlinux.h.
 */
#pragma once

#include "kernel.h"

extern const volatile struct culvert_constants culvert; /* constants.bpf.c */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct culvert_config);
} cvt_config SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct culvert_pod);
} cvt_pods SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct culvert_addr);
	__type(value, struct culvert_home);
} cvt_addresses SEC(".maps") __weak;

/* The kernel itself removes a socket that is closed; user space reads back the socket's cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 8192);
	__type(key, struct culvert_listener);
	__type(value, __u64);
} cvt_listeners SEC(".maps") __weak;

/* Needed from the app's SYN until the tunnel has asked, so an LRU of a node's simultaneous handshakes is enough. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct culvert_flow);
	__type(value, struct culvert_endpoint);
} cvt_originals SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct culvert_tuple);
	__type(value, __u64);
} cvt_probes SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct culvert_capture);
} cvt_wanted SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CULVERT_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} cvt_counters SEC(".maps") __weak;

/* Per reason and CPU: the second that is under way and the events sent in it. */
struct culvert_burst {
	__u64 second;
	__u64 sent;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CULVERT_COUNTERS);
	__type(key, __u32);
	__type(value, struct culvert_burst);
} cvt_bursts SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} cvt_events SEC(".maps") __weak;
