/* SPDX-License-Identifier: GPL-2.0 */
/* Conformance of /dev/ploop-control. */
#ifndef CONTROL_H
#define CONTROL_H

#include <ploop_control.h>

#include "abi.h"

/* A descriptor of its own. */
int control_open(void);
/* >= 0 or -errno */
int control_call(int fd, unsigned long request, void *argument);
/* Attaches the files, base first, the last writable; the index or -errno. */
int control_attach(int fd, const char *const *paths, unsigned int count, uint32_t flags);
int control_detach(int fd, int index);
/* ->fd and ->rw of a device that is attached already. */
void control_device(struct device *d, int index);
void control_close(struct device *d);
/* Makes its writes fail from now on. */
void control_abort(int index);
/* Lets them succeed again; 0 or -errno. */
int control_unabort(int index);
/* The argument of the next event of that type, or -errno. */
int control_event(int fd, uint32_t index, uint32_t type);
int control_job(int fd, int index, uint32_t op, uint32_t kind, uint64_t argument, struct ploop_job *job);

void control_attaching(int fd);
void control_bitmaps(int fd);
void control_snapshots(int fd);
void control_jobs(int fd);
void control_events(int fd);
void control_limits(int fd);
void control_depth(int fd);
void control_resume(int fd);
void control_holding(int fd);
void control_records(int fd);
void control_doubt(int fd);

#endif
