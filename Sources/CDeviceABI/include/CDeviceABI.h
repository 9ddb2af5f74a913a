// The ploop driver's control interface: its own header, and one function for each call. Every function returns a value
// >= 0 or -errno, sets the structure's size itself, and goes on after a signal.
#ifndef CDEVICEABI_H
#define CDEVICEABI_H

#include <stdint.h>
#include "../../../kernel/include/uapi/ploop_ioctl.h"
#include "../../../kernel/include/uapi/ploop_control.h"

/// A new descriptor of the control file, without blocking reads.
int32_t device_abi_open(void);
int32_t device_abi_close(int32_t fd);

int32_t device_abi_version(int32_t fd, struct ploop_version *arg);
int32_t device_abi_attach(int32_t fd, struct ploop_attach *arg);
int32_t device_abi_detach(int32_t fd, struct ploop_ref *arg);
int32_t device_abi_status(int32_t fd, struct ploop_status *arg);
int32_t device_abi_limits(int32_t fd, struct ploop_limits *arg);
int32_t device_abi_bitmap_create(int32_t fd, struct ploop_bitmap *arg);
int32_t device_abi_bitmap_delete(int32_t fd, struct ploop_bitmap *arg);
int32_t device_abi_bitmap_clear(int32_t fd, struct ploop_bitmap *arg);
int32_t device_abi_bitmap_read(int32_t fd, struct ploop_bitmap_read *arg);
int32_t device_abi_bitmap_list(int32_t fd, struct ploop_bitmap_list *arg);
int32_t device_abi_snapshot(int32_t fd, struct ploop_snapshot *arg);
int32_t device_abi_freeze(int32_t fd, struct ploop_freeze *arg);
int32_t device_abi_thaw(int32_t fd);
int32_t device_abi_job(int32_t fd, struct ploop_job *arg);
int32_t device_abi_block_status(int32_t fd, struct ploop_block_status *arg);
int32_t device_abi_watch(int32_t fd, struct ploop_watch *arg);
/// Reads events. - Returns: how many; 0 when there is none now.
int32_t device_abi_read_events(int32_t fd, struct ploop_event *events, uint32_t capacity);

/// Copies a text of at most PLOOP_NAME_BYTES - 1 bytes into a name. - Returns: 0 or -ENAMETOOLONG.
int32_t device_abi_set_name(char *name, const char *text);

/// Makes the device's writes fail from now on (1), or undoes that (0): one byte into its `aborted` file in sysfs.
int32_t device_abi_set_aborted(uint32_t index, int32_t value);

#endif
