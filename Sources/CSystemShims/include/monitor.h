// SPDX-License-Identifier: Apache-2.0
// A lock with a condition: what Swift's Synchronization module lacks.
#ifndef GODWIT_MONITOR_H
#define GODWIT_MONITOR_H

#include <stdint.h>

struct shim_monitor;
// NULL when out of memory.
struct shim_monitor *shim_monitor_new(void);
void shim_monitor_free(struct shim_monitor *monitor);
void shim_monitor_lock(struct shim_monitor *monitor);
void shim_monitor_unlock(struct shim_monitor *monitor);
void shim_monitor_wake_all(struct shim_monitor *monitor);
// Waits, with the lock given up meanwhile; may return early. deadline_ns is on the monotonic clock, UINT64_MAX: none.
// Returns 0 when the deadline has passed, else 1.
int32_t shim_monitor_wait(struct shim_monitor *monitor, uint64_t deadline_ns);

#endif
