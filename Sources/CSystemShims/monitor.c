// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "monitor.h"
#include "scheduler.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct shim_monitor {
	pthread_mutex_t mutex;
	pthread_cond_t condition;
};

struct shim_monitor *shim_monitor_new(void)
{
	struct shim_monitor *monitor = malloc(sizeof(*monitor));
	pthread_condattr_t attributes;

	if (!monitor)
		return NULL;
	pthread_mutex_init(&monitor->mutex, NULL);
	pthread_condattr_init(&attributes);
	// The wall clock may jump; a time limit must not.
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&monitor->condition, &attributes);
	pthread_condattr_destroy(&attributes);
	return monitor;
}

void shim_monitor_free(struct shim_monitor *monitor)
{
	pthread_cond_destroy(&monitor->condition);
	pthread_mutex_destroy(&monitor->mutex);
	free(monitor);
}

void shim_monitor_lock(struct shim_monitor *monitor)
{
	const struct shim_scheduler *scheduler = shim_scheduler();

	if (!scheduler) {
		pthread_mutex_lock(&monitor->mutex);
		return;
	}
	while (pthread_mutex_trylock(&monitor->mutex))
		scheduler->blocked(monitor);
}

void shim_monitor_unlock(struct shim_monitor *monitor)
{
	const struct shim_scheduler *scheduler = shim_scheduler();

	pthread_mutex_unlock(&monitor->mutex);
	if (scheduler)
		scheduler->unlocked(monitor);
}

void shim_monitor_wake_all(struct shim_monitor *monitor)
{
	const struct shim_scheduler *scheduler = shim_scheduler();

	pthread_cond_broadcast(&monitor->condition);
	if (scheduler)
		scheduler->wake(monitor);
}

int32_t shim_monitor_wait(struct shim_monitor *monitor, uint64_t deadline_ns)
{
	const struct shim_scheduler *scheduler = shim_scheduler();
	struct timespec deadline;

	if (scheduler) {
		int32_t in_time;

		pthread_mutex_unlock(&monitor->mutex);
		in_time = scheduler->wait(monitor, deadline_ns);
		shim_monitor_lock(monitor);
		return in_time;
	}
	if (deadline_ns == UINT64_MAX) {
		pthread_cond_wait(&monitor->condition, &monitor->mutex);
		return 1;
	}
	deadline.tv_sec = (time_t)(deadline_ns / 1000000000u);
	deadline.tv_nsec = (long)(deadline_ns % 1000000000u);
	return pthread_cond_timedwait(&monitor->condition, &monitor->mutex, &deadline) != ETIMEDOUT;
}
