// SPDX-License-Identifier: Apache-2.0
// The nbdkit plugin's C side: it registers the plugin and passes each call on to the godwit_plugin_… functions, which
// GodwitPlugin defines in Swift. Here is what those may call in nbdkit.
#ifndef GODWIT_CNBDKIT_H
#define GODWIT_CNBDKIT_H

#include <stdint.h>

// The list that a block status call fills in.
struct cnbdkit_extents;

// Appends a run. Runs ascend without gaps from the requested offset; what lies outside the request is ignored.
// Returns 0 or -1.
int32_t cnbdkit_add_extent(struct cnbdkit_extents *extents, uint64_t offset, uint64_t count, int32_t is_hole,
			   int32_t is_zero);

// A message for the operator, to where nbdkit logs.
void cnbdkit_error(const char *message);

// Ends the process at once, once the disk is closed: nbdkit's own way waits for clients that are connected, be they idle.
void cnbdkit_end(void);

// From here on the end of who started nbdkit does not end it. Some versions ask the kernel for that on their own, even
// without --exit-with-parent.
void cnbdkit_outlive_parent(void);

#endif
