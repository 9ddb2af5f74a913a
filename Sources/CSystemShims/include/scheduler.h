// SPDX-License-Identifier: Apache-2.0
// The seam at which a test decides which thread goes on: every lock, wait, thread, clock and random number of ours
// passes here. A program that users run installs nothing, and pays one comparison.
#ifndef GODWIT_SCHEDULER_H
#define GODWIT_SCHEDULER_H

#include <stddef.h>
#include <stdint.h>

struct shim_scheduler {
	// Whether the calling thread is one of the scheduler's. Only those make the other calls.
	int32_t (*owns_thread)(void);
	// Somebody else holds `lock`: returns when it may be free.
	void (*blocked)(const void *lock);
	void (*unlocked)(const void *lock);
	// `lock` was just given up: waits for a wake. 0: the deadline (monotonic, UINT64_MAX: none) has passed.
	int32_t (*wait)(const void *lock, uint64_t deadline_ns);
	void (*wake)(const void *lock);
	// Nothing is there yet to go on with: returns when others have gone on; 0: the deadline has passed.
	int32_t (*idle)(uint64_t deadline_ns);
	// A thread in its life: its maker names it, tells its handle (0: it could not be made), or waits for its end; it
	// itself waits in `begin` for its first turn, and gives its last one away in `end`.
	void *(*make)(const char *name);
	void (*made)(void *thread, uint64_t handle);
	void (*begin)(void *thread);
	void (*end)(void *thread);
	void (*join)(uint64_t handle);
	uint64_t (*now)(int32_t is_realtime);
	void (*random)(void *buffer, size_t count);
};

// Puts a scheduler in place, for good: the table must live as long as the process.
void shim_install_scheduler(const struct shim_scheduler *scheduler);
// The one to ask on behalf of the calling thread, or NULL.
const struct shim_scheduler *shim_scheduler(void);

// For locks that are not made here: what whoever takes one, or gives one up, tells. The former: 0 when nobody decides.
int32_t shim_is_scheduled(void);
void shim_schedule_blocked(const void *lock);
void shim_schedule_unlocked(const void *lock);

#endif
