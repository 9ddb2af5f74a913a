/* SPDX-License-Identifier: GPL-2.0 */
/* Conformance of the old interface. Each file of the suite gives one or more functions; all use files below abi_folder. */
#ifndef ABI_H
#define ABI_H

#include "device.h"
#include "image.h"

#define CLUSTER 65536u
#define DISK (16u << 20)

/* The folder of the run. */
void abi_use(const char *folder);
/* Path of a file below the folder of the run; a few can be in use at once. */
const char *abi_path(const char *name);
/* An expandable image of DISK bytes; returns its path. */
const char *abi_image(const char *name, int version);
/* A running device with a single writable delta. */
void abi_running(struct device *d, const char *name, int version);
/* Whether [offset, offset + size) of the device reads as @byte. */
bool abi_holds(struct device *d, off_t offset, size_t size, uint8_t byte);
int abi_fill(struct device *d, off_t offset, size_t size, uint8_t byte);

void abi_attach(void);
void abi_images(void);
void abi_sharing(void);
void abi_states(void);
void abi_data(void);
void abi_levels(void);
void abi_grow(void);
void abi_track(void);
void abi_space(void);
void abi_sysfs(void);

#endif
