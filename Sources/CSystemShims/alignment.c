// SPDX-License-Identifier: Apache-2.0
// Apart from shims.c: <linux/stat.h> and glibc's <sys/stat.h> each define struct statx, and only the kernel's of the
// two has the fields for direct I/O on Debian 12.
#define _GNU_SOURCE
#include "CSystemShims.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif

int32_t shim_direct_alignment(int32_t fd)
{
	struct statx st;

	memset(&st, 0, sizeof(st));
	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) < 0)
		return -errno;
	if (!(st.stx_mask & STATX_DIOALIGN))
		return -EOPNOTSUPP;
	return (int32_t)(st.stx_dio_mem_align > st.stx_dio_offset_align ? st.stx_dio_mem_align : st.stx_dio_offset_align);
}
