// SPDX-License-Identifier: Apache-2.0
#ifndef GODWIT_CTOML_H
#define GODWIT_CTOML_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// A parsed document as a list of items in document order: a table or an array is its own item, then its members, then
// an END item. The first item is the document's own table.
struct ctoml_document;

#define CTOML_END 0
#define CTOML_TABLE 1
#define CTOML_ARRAY 2
#define CTOML_STRING 3
#define CTOML_INTEGER 4
#define CTOML_BOOLEAN 5
#define CTOML_OTHER 6 // float, date, time, a string with a zero byte

struct ctoml_item {
	int32_t kind;
	uint32_t line; // from 1; 0 where unknown
	uint32_t column;
	int64_t integer;  // of an integer; 0 or 1 of a boolean
	const char *key;  // of a table's member, else ""; lives as long as the document
	const char *text; // of a string, else ""
};

struct ctoml_problem {
	uint32_t line;
	uint32_t column;
	char message[256];
};

// Returns a document, or null with *problem filled in.
struct ctoml_document *ctoml_parse(const char *text, uint64_t count, struct ctoml_problem *problem);
void ctoml_free(struct ctoml_document *document);
uint64_t ctoml_count(const struct ctoml_document *document);
// Fills *item. Returns 0, or -1 when index is past the end.
int32_t ctoml_item_at(const struct ctoml_document *document, uint64_t index, struct ctoml_item *item);

#ifdef __cplusplus
}
#endif

#endif
