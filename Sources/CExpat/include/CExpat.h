// SPDX-License-Identifier: Apache-2.0
#ifndef GODWIT_CEXPAT_H
#define GODWIT_CEXPAT_H

#include <stdint.h>

// Parses a whole XML document into a flat list of events, so that no call goes from C into the caller. Document types
// are refused: nothing that we read has one, and entities are what makes XML dangerous.
//
// An event is one byte of kind, four bytes of length and four of position in the document (both of this machine's byte
// order), then `length` bytes of UTF-8.
enum cexpat_kind {
	CEXPAT_START = 1,	// name
	CEXPAT_ATTRIBUTE,	// name; a CEXPAT_VALUE follows
	CEXPAT_VALUE,
	CEXPAT_END,		// empty
	CEXPAT_TEXT,		// may come in pieces
	CEXPAT_COMMENT,
	CEXPAT_INSTRUCTION,	// target; a CEXPAT_VALUE follows
};

enum cexpat_status {
	CEXPAT_OK = 0,
	CEXPAT_MALFORMED,	// message and offset say what and where
	CEXPAT_DOCTYPE,
	CEXPAT_TOO_DEEP,
	CEXPAT_TOO_LARGE,	// more events than allowed
	CEXPAT_NO_MEMORY,
};

struct cexpat_document;

// Parses `count` bytes. Always returns a document unless memory is out; free it with cexpat_free.
struct cexpat_document *cexpat_parse(const void *bytes, uint32_t count, uint32_t depth_max, uint64_t events_max);
void cexpat_free(struct cexpat_document *document);
int32_t cexpat_status(const struct cexpat_document *document);
// A constant text for CEXPAT_MALFORMED.
const char *cexpat_message(const struct cexpat_document *document);
uint64_t cexpat_offset(const struct cexpat_document *document);
const uint8_t *cexpat_events(const struct cexpat_document *document, uint64_t *count);

#endif
