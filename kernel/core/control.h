/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of /dev/ploop-control share. */
#ifndef _PLOOP_CONTROL_INTERNAL_H
#define _PLOOP_CONTROL_INTERNAL_H

#include "core.h"

/**
 * struct ploop_control - an open /dev/ploop-control
 * @watcher: its events
 * @lock: guards @frozen
 * @frozen: what PLOOP_CTL_FREEZE froze, or NULL
 */
struct ploop_control {
	struct ploop_watcher *watcher;
	struct mutex lock;	/* guards frozen */
	struct ploop_frozen *frozen;
};

int ploop_ctl_version(struct ploop_control *control, void *data);
int ploop_ctl_attach(struct ploop_control *control, void *data);
void ploop_ctl_unattach(void *data);
int ploop_ctl_detach(struct ploop_control *control, void *data);
int ploop_ctl_status(struct ploop_control *control, void *data);
int ploop_ctl_limits(struct ploop_control *control, void *data);
int ploop_ctl_bitmap_create(struct ploop_control *control, void *data);
int ploop_ctl_bitmap_delete(struct ploop_control *control, void *data);
int ploop_ctl_bitmap_clear(struct ploop_control *control, void *data);
int ploop_ctl_bitmap_read(struct ploop_control *control, void *data);
void ploop_ctl_bitmap_unread(const struct ploop_bitmap_read *arg);
int ploop_ctl_bitmap_list(struct ploop_control *control, void *data);
int ploop_ctl_snapshot(struct ploop_control *control, void *data);
int ploop_ctl_freeze(struct ploop_control *control, void *data);
int ploop_ctl_thaw(struct ploop_control *control);
int ploop_ctl_job(struct ploop_control *control, void *data);
int ploop_ctl_block_status(struct ploop_control *control, void *data);
int ploop_ctl_watch(struct ploop_control *control, void *data);

/* Find and lock a device; a snapshot under way is -EBUSY, or waited for. */
struct ploop_device *ploop_ctl_lock(u32 index);
int ploop_ctl_lock_soon(struct ploop_device *dev);
void ploop_ctl_unlock(struct ploop_device *dev);
/* Are all bytes zero, or is a name ended? */
bool ploop_ctl_zero(const void *data, size_t size);
bool ploop_ctl_name_ok(const char *name);

#endif /* _PLOOP_CONTROL_INTERNAL_H */
