// SPDX-License-Identifier: Apache-2.0
#include "CExpat.h"

#include <expat.h>
#include <stdlib.h>
#include <string.h>

struct cexpat_document {
	XML_Parser parser;
	uint8_t *events;
	uint64_t used;
	uint64_t capacity;
	uint64_t events_max;
	uint32_t depth;
	uint32_t depth_max;
	int32_t status;
	const char *message;
	uint64_t offset;
};

static void stop(struct cexpat_document *document, int32_t status)
{
	if (document->status != CEXPAT_OK)
		return;
	document->status = status;
	document->offset = (uint64_t)XML_GetCurrentByteIndex(document->parser);
	XML_StopParser(document->parser, XML_FALSE);
}

static void add(struct cexpat_document *document, uint8_t kind, const char *text, uint64_t count)
{
	uint64_t needed = document->used + 9 + count;
	uint32_t header[2];

	if (document->status != CEXPAT_OK)
		return;
	if (needed > document->events_max) {
		stop(document, CEXPAT_TOO_LARGE);
		return;
	}
	if (needed > document->capacity) {
		uint64_t capacity = needed * 2;
		uint8_t *events = realloc(document->events, capacity);

		if (!events) {
			stop(document, CEXPAT_NO_MEMORY);
			return;
		}
		document->events = events;
		document->capacity = capacity;
	}
	header[0] = (uint32_t)count;
	header[1] = (uint32_t)XML_GetCurrentByteIndex(document->parser);
	document->events[document->used] = kind;
	memcpy(document->events + document->used + 1, header, 8);
	if (count)
		memcpy(document->events + document->used + 9, text, count);
	document->used = needed;
}

static void on_start(void *context, const XML_Char *name, const XML_Char **attributes)
{
	struct cexpat_document *document = context;

	if (++document->depth > document->depth_max) {
		stop(document, CEXPAT_TOO_DEEP);
		return;
	}
	add(document, CEXPAT_START, name, strlen(name));
	for (; *attributes; attributes += 2) {
		add(document, CEXPAT_ATTRIBUTE, attributes[0], strlen(attributes[0]));
		add(document, CEXPAT_VALUE, attributes[1], strlen(attributes[1]));
	}
}

static void on_end(void *context, const XML_Char *name)
{
	struct cexpat_document *document = context;

	(void)name;
	document->depth--;
	add(document, CEXPAT_END, NULL, 0);
}

static void on_text(void *context, const XML_Char *text, int count) { add(context, CEXPAT_TEXT, text, (uint64_t)count); }

static void on_comment(void *context, const XML_Char *text) { add(context, CEXPAT_COMMENT, text, strlen(text)); }

static void on_instruction(void *context, const XML_Char *target, const XML_Char *data)
{
	add(context, CEXPAT_INSTRUCTION, target, strlen(target));
	add(context, CEXPAT_VALUE, data, strlen(data));
}

static void on_doctype(void *context, const XML_Char *name, const XML_Char *system_id, const XML_Char *public_id, int internal)
{
	(void)name;
	(void)system_id;
	(void)public_id;
	(void)internal;
	stop(context, CEXPAT_DOCTYPE);
}

struct cexpat_document *cexpat_parse(const void *bytes, uint32_t count, uint32_t depth_max, uint64_t events_max)
{
	struct cexpat_document *document = calloc(1, sizeof(*document));
	XML_Parser parser;

	if (!document)
		return NULL;
	document->depth_max = depth_max;
	document->events_max = events_max;
	parser = XML_ParserCreate(NULL);
	if (!parser) {
		free(document);
		return NULL;
	}
	document->parser = parser;
	XML_SetUserData(parser, document);
	XML_SetElementHandler(parser, on_start, on_end);
	XML_SetCharacterDataHandler(parser, on_text);
	XML_SetCommentHandler(parser, on_comment);
	XML_SetProcessingInstructionHandler(parser, on_instruction);
	XML_SetStartDoctypeDeclHandler(parser, on_doctype);
	if (count > INT32_MAX) {
		document->status = CEXPAT_TOO_LARGE;
	} else if (XML_Parse(parser, bytes ? bytes : "", (int)count, 1) != XML_STATUS_OK && document->status == CEXPAT_OK) {
		enum XML_Error error = XML_GetErrorCode(parser);

		document->status = error == XML_ERROR_NO_MEMORY ? CEXPAT_NO_MEMORY : CEXPAT_MALFORMED;
		document->message = XML_ErrorString(error);
		document->offset = (uint64_t)XML_GetCurrentByteIndex(parser);
	}
	XML_ParserFree(parser);
	document->parser = NULL;
	return document;
}

void cexpat_free(struct cexpat_document *document)
{
	if (!document)
		return;
	free(document->events);
	free(document);
}

int32_t cexpat_status(const struct cexpat_document *document) { return document->status; }
const char *cexpat_message(const struct cexpat_document *document) { return document->message ? document->message : ""; }
uint64_t cexpat_offset(const struct cexpat_document *document) { return document->offset; }

const uint8_t *cexpat_events(const struct cexpat_document *document, uint64_t *count)
{
	*count = document->used;
	return document->events;
}
