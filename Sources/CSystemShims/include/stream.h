// SPDX-License-Identifier: Apache-2.0
// What byte streams need beyond files.
#ifndef GODWIT_STREAM_H
#define GODWIT_STREAM_H

#include <stdint.h>

// Makes calls on the descriptor return -EAGAIN instead of blocking, or not. Returns whether it was so before.
int32_t shim_set_nonblocking(int32_t fd, int32_t nonblocking);
// A non-blocking counter to wake a poll with: writing 8 bytes adds, reading 8 bytes clears.
int32_t shim_eventfd(void);
// Another descriptor, above 2, for the same open file; closed on exec.
int32_t shim_duplicate(int32_t fd);
// Makes descriptor `target` mean the open file of `fd`, kept on exec.
int32_t shim_redirect(int32_t target, int32_t fd);

#endif
