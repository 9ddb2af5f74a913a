// SPDX-License-Identifier: GPL-2.0
/* Formats and I/O engines: who there is, and finding one for a file. */
#include <linux/kmod.h>
#include <linux/module.h>
#include "core.h"

#define FORMATS 3	/* ids 1 and 2 */
#define ENGINES 6	/* ids 1 to 5 */

static DEFINE_MUTEX(registry_lock);
static struct ploop_format *formats[FORMATS];
static struct ploop_io *engines[ENGINES];

static const char * const format_modules[FORMATS] = {
	[PLOOP_FMT_RAW] = "pfmt_raw",
	[PLOOP_FMT_PLOOP1] = "pfmt_ploop1",
};

static const char * const engine_modules[ENGINES] = {
	[PLOOP_IO_DIRECT] = "pio_direct",
	[PLOOP_IO_NFS] = "pio_nfs",
	[PLOOP_IO_BUFFERED] = "pio_buffered",
};

int ploop_format_register(struct ploop_format *format)
{
	int ret = -EEXIST;

	mutex_lock(&registry_lock);
	if (format->id < FORMATS && !formats[format->id]) {
		formats[format->id] = format;
		ret = 0;
	}
	mutex_unlock(&registry_lock);
	return ret;
}
EXPORT_SYMBOL_GPL(ploop_format_register);

/**
 * ploop_format_unregister() - undo ploop_format_register()
 * @format: no delta uses it, or its module could not go
 */
void ploop_format_unregister(struct ploop_format *format)
{
	mutex_lock(&registry_lock);
	formats[format->id] = NULL;
	mutex_unlock(&registry_lock);
}
EXPORT_SYMBOL_GPL(ploop_format_unregister);

int ploop_io_register(struct ploop_io *io)
{
	int ret = -EEXIST;

	mutex_lock(&registry_lock);
	if (io->id < ENGINES && !engines[io->id]) {
		engines[io->id] = io;
		ret = 0;
	}
	mutex_unlock(&registry_lock);
	return ret;
}
EXPORT_SYMBOL_GPL(ploop_io_register);

/**
 * ploop_io_unregister() - undo ploop_io_register()
 * @io: no file uses it, or its module could not go
 */
void ploop_io_unregister(struct ploop_io *io)
{
	mutex_lock(&registry_lock);
	engines[io->id] = NULL;
	mutex_unlock(&registry_lock);
}
EXPORT_SYMBOL_GPL(ploop_io_unregister);

static struct ploop_format *format_find(u32 id)
{
	struct ploop_format *format;

	mutex_lock(&registry_lock);
	format = formats[id];
	if (format && !try_module_get(format->owner))
		format = NULL;
	mutex_unlock(&registry_lock);
	return format;
}

/**
 * ploop_format_get() - the format of an id, loading its module if need be
 * @id: PLOOP_FMT_*
 *
 * Context: Process context; sleeps.
 * Return: to be given to ploop_format_put(), or NULL.
 */
const struct ploop_format *ploop_format_get(u32 id)
{
	struct ploop_format *format;

	if (id >= FORMATS || !format_modules[id])
		return NULL;
	format = format_find(id);
	if (!format) {
		request_module("%s", format_modules[id]);
		format = format_find(id);
	}
	return format;
}

/**
 * ploop_format_put() - end the use of a format
 * @format: from ploop_format_get()
 */
void ploop_format_put(const struct ploop_format *format)
{
	module_put(format->owner);
}

static int engine_try(struct ploop_file *file, u32 id)
{
	struct ploop_io *io;
	int ret = -EOPNOTSUPP;

	mutex_lock(&registry_lock);
	io = engines[id];
	if (io && !try_module_get(io->owner))
		io = NULL;
	mutex_unlock(&registry_lock);
	if (!io)
		return ret;
	ret = io->probe(file);
	if (ret == 0)
		file->io = io;
	else
		module_put(io->owner);
	return ret;
}

/**
 * ploop_io_find() - choose the engine of a file
 * @file: its io is set, and what the engine's probe sets
 * @id: PLOOP_IO_AUTO or a certain one
 *
 * Context: Process context; sleeps.
 * Return: 0, then to be given to ploop_io_put(); or -EOPNOTSUPP, -EINVAL.
 */
int ploop_io_find(struct ploop_file *file, u32 id)
{
	static const u32 order[] = { PLOOP_IO_NFS, PLOOP_IO_DIRECT, PLOOP_IO_BUFFERED };
	unsigned int i;

	if (id == PLOOP_IO_KAIO)
		id = PLOOP_IO_DIRECT;
	if (id >= ENGINES || (id != PLOOP_IO_AUTO && !engine_modules[id]))
		return -EINVAL;
	for (i = 0; i < ARRAY_SIZE(order); i++) {
		if (id != PLOOP_IO_AUTO && id != order[i])
			continue;
		if (!READ_ONCE(engines[order[i]]))
			request_module("%s", engine_modules[order[i]]);
		if (engine_try(file, order[i]) == 0)
			return 0;
	}
	return -EOPNOTSUPP;
}

/**
 * ploop_io_put() - end the use of an engine
 * @file: from ploop_io_find()
 */
void ploop_io_put(struct ploop_file *file)
{
	module_put(file->io->owner);
	file->io = NULL;
}
