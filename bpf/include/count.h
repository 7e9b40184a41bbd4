/* Counters, and the events that tell the agent about single refusals. Nothing is refused without being counted here. */
#pragma once

#include "maps.h"

#define NS_PER_SECOND 1000000000ULL

static __always_inline void count(enum culvert_counter which)
{
	__u32 index = which;
	__u64 *value = bpf_map_lookup_elem(&cvt_counters, &index);

	if (value)
		*value += 1; /* per CPU, and these hooks do not nest on one CPU often enough for a lost count to matter */
}

/* Counts a refusal and, within the burst limit, reports it. A full ring loses the event, never the count. */
static __always_inline void refuse(enum culvert_counter which, __u64 netns, const struct culvert_endpoint *source,
				   const struct culvert_endpoint *destination)
{
	__u32 index = which;
	__u64 now = bpf_ktime_get_ns();
	struct culvert_burst *burst = bpf_map_lookup_elem(&cvt_bursts, &index);
	struct culvert_event *event;

	count(which);
	if (!burst)
		return;
	if (burst->second != now / NS_PER_SECOND) {
		burst->second = now / NS_PER_SECOND;
		burst->sent = 0;
	}
	if (burst->sent >= CULVERT_EVENT_BURST)
		return;
	burst->sent += 1;
	event = bpf_ringbuf_reserve(&cvt_events, sizeof(*event), 0);
	if (!event)
		return;
	__builtin_memset(event, 0, sizeof(*event));
	event->time = now;
	event->netns = netns;
	if (source)
		event->source = *source;
	if (destination)
		event->destination = *destination;
	event->counter = which;
	bpf_ringbuf_submit(event, 0);
}
