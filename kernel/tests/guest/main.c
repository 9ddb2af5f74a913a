// SPDX-License-Identifier: GPL-2.0
/* Everything that runs inside a test guest as one static program: executing it is dear under emulation. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "tap.h"

static const struct command commands[] = {
	{ "image", image_main, "create PATH VERSION CLUSTER BYTES [filled] | sound PATH..." },
	{ "fsx", fsx_main, "FOLDER [seed= seconds= threads= version= cluster= stripe=KIB sectors= mib= max= step= window=MIB lengthen= "
		"actions=smgtrbchld]" },
	{ "hostile", hostile_main, "FOLDER [SEED]" },
	{ "fuzz", fuzz_main, "FOLDER [SECONDS [SEED]]" },
	{ "crash", crash_main, "run FOLDER NOTES [SECONDS] | verify FOLDER NOTES | "
		"disks FOLDER DISK NOTES COUNT BYTES [SAMPLE [COMMAND...]] | "
		"app FILE NOTES | app-verify FILE NOTES OFFSET | note NOTES VALUE | noted NOTES OFFSET" },
	{ "writelog", writelog_main, "LOG count | LOG build SEED TOTAL FIRST COUNT BEFORE IMAGE NOTES" },
	{ "control", control_main, "FOLDER [PART...]" },
	{ "faults", faults_main, "FOLDER" },
	{ "faults-load", faults_load_main, "FOLDER" },
	{ "freeze", freeze_main, "killed|count INDEX MOUNT FOLDER TRIES" },
	{ "stack", stack_main, "attach|attach-ro|detach|stop|snapshot|set|freeze|merge|track|untrack|limit|status ..." },
	{ "scribble", scribble_main, "FILE SECONDS" },
	{ "eat", eat_main, "MIB ROUNDS" },
	{ "abi", abi_main, "FOLDER [PART...]" },
};

int main(int argc, char **argv)
{
	struct rlimit files = { 4096, 4096 };

	setrlimit(RLIMIT_NOFILE, &files);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (argc > 1 && strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(stderr, "guest-tests %s %s\n", commands[i].name, commands[i].usage);
	return 2;
}
