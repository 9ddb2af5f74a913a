// SPDX-License-Identifier: Apache-2.0
#ifndef GODWIT_CCRYPTO_H
#define GODWIT_CCRYPTO_H

#include <stdint.h>

// SHA-256 in one call: two inputs one after the other (either may be empty). Returns 0, or -1 when libcrypto fails.
int32_t ccrypto_sha256(const void *first, uint64_t first_count, const void *second, uint64_t second_count,
		       uint8_t digest[32]);
// MD5, which the ploop Format Extension demands.
int32_t ccrypto_md5(const void *bytes, uint64_t count, uint8_t digest[16]);

// SHA-256 of a stream.
struct ccrypto_hash;
struct ccrypto_hash *ccrypto_hash_new(void);
int32_t ccrypto_hash_update(struct ccrypto_hash *hash, const void *bytes, uint64_t count);
// Fills the digest and frees the hash.
int32_t ccrypto_hash_finish(struct ccrypto_hash *hash, uint8_t digest[32]);
void ccrypto_hash_free(struct ccrypto_hash *hash);

// CRC-32C (Castagnoli), with the CPU's instruction where there is one. Start with 0, chain the results.
uint32_t ccrypto_crc32c(uint32_t crc, const void *bytes, uint64_t count);

#endif
