// SPDX-License-Identifier: Apache-2.0
// What the files of known hosts say of a host's key, beyond what libssh reads in them: it knows neither markers nor aliases,
// and looks into one file of the user's and one of the system's.
#ifndef GODWIT_CSSH_KNOWN_HOSTS_H
#define GODWIT_CSSH_KNOWN_HOSTS_H

#include <libssh/libssh.h>

struct known_hosts_answer {
	int is_known;	   // a line has this key for the host
	int has_other;	   // a line has another one
	int has_authority; // a line names an authority that vouches for the host's keys
	int is_revoked;	   // a line says never to trust this key
};

// Looks into `files`, a path a line, for lines of the host `name`: as the files write it, `[host]:port` where the port is not
// 22. What can't be read says nothing.
void known_hosts_look(const char *files, const char *name, ssh_key key, struct known_hosts_answer *answer);

// Is the key in a file of revoked keys, one a line? 1, too, when the file can't be read, as ssh(1) has it.
int known_hosts_is_in(const char *file, ssh_key key);

#endif
