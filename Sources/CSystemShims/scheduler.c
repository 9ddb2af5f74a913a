// SPDX-License-Identifier: Apache-2.0
#include "scheduler.h"

static _Atomic(const struct shim_scheduler *) installed;

void shim_install_scheduler(const struct shim_scheduler *scheduler) { installed = scheduler; }

const struct shim_scheduler *shim_scheduler(void)
{
	const struct shim_scheduler *scheduler = __c11_atomic_load(&installed, __ATOMIC_ACQUIRE);

	return scheduler && scheduler->owns_thread() ? scheduler : NULL;
}

int32_t shim_is_scheduled(void) { return shim_scheduler() != NULL; }
void shim_schedule_blocked(const void *lock) { shim_scheduler()->blocked(lock); }
void shim_schedule_unlocked(const void *lock) { shim_scheduler()->unlocked(lock); }
