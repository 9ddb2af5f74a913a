/* SPDX-License-Identifier: GPL-2.0 */
/* What format/ *_parse.c needs of the kernel, for builds in user space. */
#ifndef _PLOOP_USER_SHIM_H
#define _PLOOP_USER_SHIM_H

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef uint16_t __le16;
typedef uint32_t __le32;
typedef uint64_t __le64;

#define __packed		__attribute__((packed))
#define static_assert		_Static_assert
#define le32_to_cpu(v)		le32toh(v)
#define le64_to_cpu(v)		le64toh(v)
#define cpu_to_le32(v)		htole32(v)
#define cpu_to_le64(v)		htole64(v)
#define is_power_of_2(n)	((n) != 0 && ((n) & ((n) - 1)) == 0)
#define ilog2(n)		(31 - __builtin_clz(n))

struct module;

#endif /* _PLOOP_USER_SHIM_H */
