// SPDX-License-Identifier: Apache-2.0
#include <stdexcept>

// A bad text can break what the parser asserts. That would end the process, or in a release build let the compiler
// assume that it cannot be. Here it is an error like any other.
#undef NDEBUG
#define TOML_ASSERT(expr) ((expr) ? static_cast<void>(0) : throw std::runtime_error("this is not TOML"))
// How deep values nest in each other; each level takes stack.
#define TOML_MAX_NESTED_VALUES 16
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "CToml.h"

namespace {
struct Item {
	int32_t kind;
	toml::source_position at;
	int64_t integer;
	std::string key;
	std::string text;
};

void complain(ctoml_problem *problem, toml::source_position at, std::string_view message)
{
	problem->line = at.line;
	problem->column = at.column;
	auto count = std::min(message.size(), sizeof(problem->message) - 1);
	std::memcpy(problem->message, message.data(), count);
	problem->message[count] = 0;
}

// Each dot of a key is a table in a table, and walking them takes stack. A key is in one line.
constexpr size_t line_dots_max = 64;

/// The first line with too many dots, from 1; 0 when there is none.
uint32_t crowded_line(std::string_view text)
{
	uint32_t line = 1;
	size_t dots = 0;
	for (char c : text) {
		if (c == '\n') {
			line++;
			dots = 0;
		} else if (c == '.' && ++dots > line_dots_max) {
			return line;
		}
	}
	return 0;
}
} // namespace

struct ctoml_document {
	std::vector<Item> items;

	void add(std::string_view key, const toml::node &node)
	{
		auto at = node.source().begin;
		if (auto table = node.as_table()) {
			items.push_back({CTOML_TABLE, at, 0, std::string(key), {}});
			std::vector<std::pair<const toml::key *, const toml::node *>> members;
			for (auto &[name, member] : *table)
				members.emplace_back(&name, &member);
			// The library sorts by key; people expect the first problem in their file to be told first.
			std::stable_sort(members.begin(), members.end(), [](auto &a, auto &b) {
				auto l = a.second->source().begin, r = b.second->source().begin;
				return l.line != r.line ? l.line < r.line : l.column < r.column;
			});
			for (auto &[name, member] : members)
				add(name->str(), *member);
			items.push_back({CTOML_END, at, 0, {}, {}});
		} else if (auto array = node.as_array()) {
			items.push_back({CTOML_ARRAY, at, 0, std::string(key), {}});
			for (auto &member : *array)
				add({}, member);
			items.push_back({CTOML_END, at, 0, {}, {}});
		} else if (auto text = node.as_string(); text && text->get().find('\0') == std::string::npos) {
			items.push_back({CTOML_STRING, at, 0, std::string(key), text->get()});
		} else if (auto integer = node.as_integer()) {
			items.push_back({CTOML_INTEGER, at, integer->get(), std::string(key), {}});
		} else if (auto boolean = node.as_boolean()) {
			items.push_back({CTOML_BOOLEAN, at, boolean->get() ? 1 : 0, std::string(key), {}});
		} else {
			items.push_back({CTOML_OTHER, at, 0, std::string(key), {}});
		}
	}
};

extern "C" ctoml_document *ctoml_parse(const char *text, uint64_t count, ctoml_problem *problem)
{
	if (uint32_t line = crowded_line(std::string_view(text, count))) {
		complain(problem, {line, 1}, "the line has too many dots");
		return nullptr;
	}
	try {
		toml::table table = toml::parse(std::string_view(text, count));
		auto document = new ctoml_document;
		document->add({}, table);
		return document;
	} catch (const toml::parse_error &error) {
		complain(problem, error.source().begin, error.description());
	} catch (const std::exception &error) {
		complain(problem, {}, error.what());
	}
	return nullptr;
}

extern "C" void ctoml_free(ctoml_document *document)
{
	delete document;
}

extern "C" uint64_t ctoml_count(const ctoml_document *document)
{
	return document->items.size();
}

extern "C" int32_t ctoml_item_at(const ctoml_document *document, uint64_t index, ctoml_item *item)
{
	if (index >= document->items.size())
		return -1;
	auto &found = document->items[index];
	*item = {found.kind, found.at.line, found.at.column, found.integer, found.key.c_str(), found.text.c_str()};
	return 0;
}
