/* SPDX-License-Identifier: GPL-2.0 */
/* What the *_parse.c files of this folder need of the kernel, for builds in user space. */
#ifndef _PLOOP_USER_SHIM_H
#define _PLOOP_USER_SHIM_H

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <linux/types.h>
#include <stdbool.h>
#include <string.h>

#define u8	__u8
#define u16	__u16
#define u32	__u32
#define u64	__u64

/* The struct has no padding; its size is asserted. */
#define __packed
#define le32_to_cpu(v)		le32toh(v)
#define le64_to_cpu(v)		le64toh(v)
#define cpu_to_le32(v)		htole32(v)
#define cpu_to_le64(v)		htole64(v)

static inline bool is_power_of_2(u32 n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

static inline u32 ilog2(u32 n)
{
	return 31 - (u32)__builtin_clz(n);
}

struct module;

#endif /* _PLOOP_USER_SHIM_H */
