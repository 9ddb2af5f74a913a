#define _GNU_SOURCE
#include "CDeviceABI.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// What the interface was written for: a change of a structure shows here first.
_Static_assert(sizeof(struct ploop_version) == 32, "ploop_version");
_Static_assert(sizeof(struct ploop_attach_delta) == 16, "ploop_attach_delta");
_Static_assert(sizeof(struct ploop_attach) == 144, "ploop_attach");
_Static_assert(sizeof(struct ploop_ref) == 16, "ploop_ref");
_Static_assert(sizeof(struct ploop_status) == 312, "ploop_status");
_Static_assert(sizeof(struct ploop_limits) == 40, "ploop_limits");
_Static_assert(sizeof(struct ploop_bitmap) == 96, "ploop_bitmap");
_Static_assert(sizeof(struct ploop_range) == 16, "ploop_range");
_Static_assert(sizeof(struct ploop_bitmap_read) == 128, "ploop_bitmap_read");
_Static_assert(sizeof(struct ploop_bitmap_info) == 96, "ploop_bitmap_info");
_Static_assert(sizeof(struct ploop_bitmap_list) == 40, "ploop_bitmap_list");
_Static_assert(sizeof(struct ploop_snapshot_item) == 16, "ploop_snapshot_item");
_Static_assert(sizeof(struct ploop_snapshot) == 112, "ploop_snapshot");
_Static_assert(sizeof(struct ploop_freeze) == 40, "ploop_freeze");
_Static_assert(sizeof(struct ploop_job) == 88, "ploop_job");
_Static_assert(sizeof(struct ploop_block_extent) == 32, "ploop_block_extent");
_Static_assert(sizeof(struct ploop_block_status) == 64, "ploop_block_status");
_Static_assert(sizeof(struct ploop_watch) == 32, "ploop_watch");
_Static_assert(sizeof(struct ploop_event) == 24, "ploop_event");

int32_t device_abi_open(void) {
    int fd = open("/dev/ploop-control", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int32_t device_abi_close(int32_t fd) { return close(fd) < 0 ? -errno : 0; }

static int32_t call(int32_t fd, unsigned long request, void *arg) {
    int result;
    do result = ioctl(fd, request, arg);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

#define CALL(name, type, request) \
    int32_t device_abi_##name(int32_t fd, struct type *arg) { \
        arg->size = sizeof(*arg); \
        return call(fd, request, arg); \
    }

CALL(version, ploop_version, PLOOP_CTL_VERSION)
CALL(attach, ploop_attach, PLOOP_CTL_ATTACH)
CALL(detach, ploop_ref, PLOOP_CTL_DETACH)
CALL(status, ploop_status, PLOOP_CTL_STATUS)
CALL(limits, ploop_limits, PLOOP_CTL_LIMITS)
CALL(bitmap_create, ploop_bitmap, PLOOP_CTL_BITMAP_CREATE)
CALL(bitmap_delete, ploop_bitmap, PLOOP_CTL_BITMAP_DELETE)
CALL(bitmap_clear, ploop_bitmap, PLOOP_CTL_BITMAP_CLEAR)
CALL(bitmap_read, ploop_bitmap_read, PLOOP_CTL_BITMAP_READ)
CALL(bitmap_list, ploop_bitmap_list, PLOOP_CTL_BITMAP_LIST)
CALL(snapshot, ploop_snapshot, PLOOP_CTL_SNAPSHOT)
CALL(freeze, ploop_freeze, PLOOP_CTL_FREEZE)
CALL(job, ploop_job, PLOOP_CTL_JOB)
CALL(block_status, ploop_block_status, PLOOP_CTL_BLOCK_STATUS)
CALL(watch, ploop_watch, PLOOP_CTL_WATCH)

int32_t device_abi_thaw(int32_t fd) { return call(fd, PLOOP_CTL_THAW, NULL); }

int32_t device_abi_read_events(int32_t fd, struct ploop_event *events, uint32_t capacity) {
    ssize_t count;
    do count = read(fd, events, capacity * sizeof(*events));
    while (count < 0 && errno == EINTR);
    if (count < 0) return errno == EAGAIN ? 0 : -errno;
    return (int32_t)((size_t)count / sizeof(*events));
}

int32_t device_abi_set_name(char *name, const char *text) {
    size_t length = strlen(text);
    if (length >= PLOOP_NAME_BYTES) return -ENAMETOOLONG;
    memset(name, 0, PLOOP_NAME_BYTES);
    memcpy(name, text, length);
    return 0;
}

int32_t device_abi_set_aborted(uint32_t index, int32_t value) {
    char path[64];
    snprintf(path, sizeof(path), "/sys/block/ploop%u/pstate/aborted", index);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int32_t result = write(fd, value ? "1" : "0", 1) == 1 ? 0 : -errno;
    close(fd);
    return result;
}
