// SPDX-License-Identifier: Apache-2.0
#ifndef GODWIT_CZSTD_H
#define GODWIT_CZSTD_H

#include <stdint.h>

// A compressor with its memory, for one thread at a time. Contexts are reused: creating one is dear.
struct czstd_compressor;
struct czstd_compressor *czstd_compressor_new(int32_t level);
// Between levels 2 and 3: level 3's search with tables that stay in a core's L2 cache. Made for frames of 1 to 4 MiB.
struct czstd_compressor *czstd_compressor_new_bulk(void);
void czstd_compressor_free(struct czstd_compressor *compressor);
uint64_t czstd_bound(uint64_t count);
// One frame with its content size. Returns its length, or -1 (capacity too small).
int64_t czstd_compress(struct czstd_compressor *compressor, const void *source, uint64_t count, void *target,
		       uint64_t capacity);

struct czstd_decompressor;
struct czstd_decompressor *czstd_decompressor_new(void);
void czstd_decompressor_free(struct czstd_decompressor *decompressor);
// Decodes exactly one frame that fills the source. Returns the plain length, or -1 (damaged, or over capacity).
int64_t czstd_decompress(struct czstd_decompressor *decompressor, const void *source, uint64_t count, void *target,
			 uint64_t capacity);

#endif
