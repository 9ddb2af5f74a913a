// SPDX-License-Identifier: Apache-2.0
#include "CCrypto.h"

#include <openssl/evp.h>
#include <stddef.h>
#include <string.h>

static int32_t digest2(const EVP_MD *kind, const void *first, uint64_t first_count, const void *second,
		       uint64_t second_count, uint8_t *digest)
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	int ok = context && EVP_DigestInit_ex(context, kind, NULL) == 1 && EVP_DigestUpdate(context, first, first_count) == 1 &&
		 EVP_DigestUpdate(context, second, second_count) == 1 && EVP_DigestFinal_ex(context, digest, NULL) == 1;

	EVP_MD_CTX_free(context);
	return ok ? 0 : -1;
}

int32_t ccrypto_sha256(const void *first, uint64_t first_count, const void *second, uint64_t second_count,
		       uint8_t digest[32])
{
	return digest2(EVP_sha256(), first, first_count, second, second_count, digest);
}

int32_t ccrypto_md5(const void *bytes, uint64_t count, uint8_t digest[16])
{
	return digest2(EVP_md5(), bytes, count, NULL, 0, digest);
}

struct ccrypto_hash *ccrypto_hash_new(void)
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();

	if (context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
		EVP_MD_CTX_free(context);
		context = NULL;
	}
	return (struct ccrypto_hash *)context;
}

int32_t ccrypto_hash_update(struct ccrypto_hash *hash, const void *bytes, uint64_t count)
{
	return EVP_DigestUpdate((EVP_MD_CTX *)hash, bytes, count) == 1 ? 0 : -1;
}

int32_t ccrypto_hash_finish(struct ccrypto_hash *hash, uint8_t digest[32])
{
	int ok = EVP_DigestFinal_ex((EVP_MD_CTX *)hash, digest, NULL);

	EVP_MD_CTX_free((EVP_MD_CTX *)hash);
	return ok == 1 ? 0 : -1;
}

void ccrypto_hash_free(struct ccrypto_hash *hash) { EVP_MD_CTX_free((EVP_MD_CTX *)hash); }

// Bytewise table for CPUs without the instruction; built once, before main.
static uint32_t table[256];

__attribute__((constructor)) static void build_table(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
		table[i] = crc;
	}
}

static uint32_t crc_table(uint32_t crc, const uint8_t *bytes, uint64_t count)
{
	while (count-- > 0)
		crc = crc >> 8 ^ table[(crc ^ *bytes++) & 0xff];
	return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t crc, const uint8_t *bytes, uint64_t count)
{
	uint64_t wide = crc;

	for (; count >= 8; bytes += 8, count -= 8) {
		uint64_t word;
		memcpy(&word, bytes, 8);
		wide = __builtin_ia32_crc32di(wide, word);
	}
	return crc_table((uint32_t)wide, bytes, count);
}
#endif

uint32_t ccrypto_crc32c(uint32_t crc, const void *bytes, uint64_t count)
{
	crc = ~crc;
#if defined(__x86_64__)
	if (__builtin_cpu_supports("sse4.2"))
		return ~crc_sse42(crc, bytes, count);
#endif
	return ~crc_table(crc, bytes, count);
}
