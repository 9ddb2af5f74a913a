// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "known_hosts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static char *skip_spaces(char *text) { return text + strspn(text, " \t"); }

// Takes `marker` off the start of a line: 1, and the line is what follows.
static int take_marker(char **line, const char *marker)
{
	size_t length = strlen(marker);

	if (strncmp(*line, marker, length) || (*line)[length] != ' ')
		return 0;
	*line = skip_spaces(*line + length);
	return 1;
}

static void look_at_line(char *line, const char *name, ssh_key key, struct known_hosts_answer *answer)
{
	struct ssh_knownhosts_entry *entry = NULL;
	int is_revoked, is_authority, is_same;

	line[strcspn(line, "\r\n")] = 0;
	// libssh knows spaces only.
	for (char *tab = line; (tab = strchr(tab, '\t'));)
		*tab = ' ';
	line = skip_spaces(line);
	is_revoked = take_marker(&line, "@revoked");
	is_authority = !is_revoked && take_marker(&line, "@cert-authority");
	// Comments, and markers that are not known.
	if (!*line || *line == '#' || *line == '@')
		return;
	if (ssh_known_hosts_parse_line(name, line, &entry) != SSH_OK)
		return;
	is_same = entry->publickey && !ssh_key_cmp(entry->publickey, key, SSH_KEY_CMP_PUBLIC);
	if (is_authority)
		answer->has_authority = 1;
	else if (is_revoked)
		answer->is_revoked |= is_same;
	else if (is_same)
		answer->is_known = 1;
	else
		answer->has_other = 1;
	ssh_knownhosts_entry_free(entry);
}

void known_hosts_look(const char *files, const char *name, ssh_key key, struct known_hosts_answer *answer)
{
	char *paths = strdup(files), *rest = paths, *path;

	while (paths && (path = strsep(&rest, "\n"))) {
		FILE *file = *path ? fopen(path, "re") : NULL;
		size_t capacity = 0;
		char *line = NULL;

		if (!file)
			continue;
		while (getline(&line, &capacity, file) >= 0)
			look_at_line(line, name, key, answer);
		free(line);
		fclose(file);
	}
	free(paths);
}

// A line `type base64 …` with the key?
static int is_key_line(char *line, ssh_key key)
{
	char *rest = skip_spaces(line), *type, *text;
	ssh_key other = NULL;
	int is_same;

	type = strsep(&rest, " \t\r\n");
	if (!type || !*type || *type == '#' || !rest)
		return 0;
	rest = skip_spaces(rest);
	text = strsep(&rest, " \t\r\n");
	if (ssh_pki_import_pubkey_base64(text, ssh_key_type_from_name(type), &other) != SSH_OK)
		return 0;
	is_same = !ssh_key_cmp(other, key, SSH_KEY_CMP_PUBLIC);
	ssh_key_free(other);
	return is_same;
}

int known_hosts_is_in(const char *path, ssh_key key)
{
	FILE *file = fopen(path, "re");
	size_t capacity = 0;
	char *line = NULL;
	int found = 0;

	if (!file)
		return 1;
	while (!found && getline(&line, &capacity, file) >= 0)
		// A list of OpenSSH's own binary kind is not for us to read.
		found = !strncmp(line, "SSHKRL", 6) || is_key_line(line, key);
	free(line);
	fclose(file);
	return found;
}
