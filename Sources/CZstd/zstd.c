// SPDX-License-Identifier: Apache-2.0
#include "CZstd.h"

#include <zstd.h>

struct czstd_compressor *czstd_compressor_new(int32_t level)
{
	ZSTD_CCtx *context = ZSTD_createCCtx();

	if (context && ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level))) {
		ZSTD_freeCCtx(context);
		context = NULL;
	}
	return (struct czstd_compressor *)context;
}

struct czstd_compressor *czstd_compressor_new_bulk(void)
{
	static const struct {
		ZSTD_cParameter name;
		int value;
	} settings[] = {
		{ ZSTD_c_compressionLevel, 3 }, { ZSTD_c_strategy, ZSTD_dfast }, { ZSTD_c_windowLog, 21 },
		{ ZSTD_c_hashLog, 16 },		{ ZSTD_c_chainLog, 15 },	 { ZSTD_c_minMatch, 5 },
	};
	ZSTD_CCtx *context = ZSTD_createCCtx();

	for (unsigned i = 0; context && i < sizeof(settings) / sizeof(settings[0]); i++) {
		if (ZSTD_isError(ZSTD_CCtx_setParameter(context, settings[i].name, settings[i].value))) {
			ZSTD_freeCCtx(context);
			context = NULL;
		}
	}
	return (struct czstd_compressor *)context;
}

void czstd_compressor_free(struct czstd_compressor *compressor) { ZSTD_freeCCtx((ZSTD_CCtx *)compressor); }
uint64_t czstd_bound(uint64_t count) { return ZSTD_compressBound(count); }

int64_t czstd_compress(struct czstd_compressor *compressor, const void *source, uint64_t count, void *target,
		       uint64_t capacity)
{
	size_t result = ZSTD_compress2((ZSTD_CCtx *)compressor, target, capacity, source, count);

	return ZSTD_isError(result) ? -1 : (int64_t)result;
}

struct czstd_decompressor *czstd_decompressor_new(void) { return (struct czstd_decompressor *)ZSTD_createDCtx(); }
void czstd_decompressor_free(struct czstd_decompressor *decompressor) { ZSTD_freeDCtx((ZSTD_DCtx *)decompressor); }

int64_t czstd_decompress(struct czstd_decompressor *decompressor, const void *source, uint64_t count, void *target,
			 uint64_t capacity)
{
	size_t result;

	// One frame only: several, or trailing bytes, are not what our writers make.
	if (ZSTD_findFrameCompressedSize(source, count) != count)
		return -1;
	result = ZSTD_decompressDCtx((ZSTD_DCtx *)decompressor, target, capacity, source, count);
	return ZSTD_isError(result) ? -1 : (int64_t)result;
}
