// SPDX-License-Identifier: GPL-2.0
/* sysfs: /sys/block/ploopN/pdelta/L/. */
#include <linux/file.h>
#include "core.h"

struct delta_attribute {
	struct attribute attr;
	ssize_t (*show)(struct ploop_delta *delta, char *buf);
};

#define DELTA_ATTR(_name) \
	static struct delta_attribute attr_##_name = { \
		.attr = { .name = #_name, .mode = 0444 }, .show = show_##_name }

static ssize_t show_level(struct ploop_delta *delta, char *buf)
{
	return sysfs_emit(buf, "%u\n", delta->level);
}
DELTA_ATTR(level);

/* In the reader's root: the tools compare it with what they see. */
static ssize_t show_image(struct ploop_delta *delta, char *buf)
{
	struct path path;
	ssize_t ret;
	char *text;

	spin_lock(&delta->alloc_lock);
	path = delta->file->file->f_path;
	path_get(&path);
	spin_unlock(&delta->alloc_lock);
	text = d_path(&path, buf, PAGE_SIZE - 1);
	path_put(&path);
	if (IS_ERR(text))
		return PTR_ERR(text);
	ret = strlen(text);
	memmove(buf, text, ret);
	buf[ret++] = '\n';
	buf[ret] = 0;
	return ret;
}
DELTA_ATTR(image);

static ssize_t show_format(struct ploop_delta *delta, char *buf)
{
	return sysfs_emit(buf, "%s\n", delta->fmt->name);
}
DELTA_ATTR(format);

static ssize_t show_io(struct ploop_delta *delta, char *buf)
{
	ssize_t ret;

	spin_lock(&delta->alloc_lock);
	ret = sysfs_emit(buf, "%s\n", delta->file->io->name);
	spin_unlock(&delta->alloc_lock);
	return ret;
}
DELTA_ATTR(io);

static ssize_t show_ro(struct ploop_delta *delta, char *buf)
{
	return sysfs_emit(buf, "%u\n", delta->rdonly);
}
DELTA_ATTR(ro);

static ssize_t show_transparent(struct ploop_delta *delta, char *buf)
{
	return sysfs_emit(buf, "%u\n", delta->transparent);
}
DELTA_ATTR(transparent);

static struct attribute *delta_attrs[] = {
	&attr_level.attr, &attr_image.attr, &attr_format.attr, &attr_io.attr,
	&attr_ro.attr, &attr_transparent.attr, NULL,
};
ATTRIBUTE_GROUPS(delta);

static ssize_t delta_show(struct kobject *kobj, struct attribute *attr, char *buf)
{
	struct ploop_delta *delta = container_of(kobj, struct ploop_delta, kobj);

	return container_of(attr, struct delta_attribute, attr)->show(delta, buf);
}

static const struct sysfs_ops delta_sysfs_ops = { .show = delta_show };

static void delta_release(struct kobject *kobj)
{
	kfree(container_of(kobj, struct ploop_delta, kobj));
}

static struct kobj_type delta_ktype = {
	.sysfs_ops = &delta_sysfs_ops,
	.release = delta_release,
	.default_groups = delta_groups,
};

/**
 * ploop_pdelta_init() - prepare the sysfs part of a delta
 * @delta: freed when the last reference to its kobj is put
 */
void ploop_pdelta_init(struct ploop_delta *delta)
{
	kobject_init(&delta->kobj, &delta_ktype);
}

/**
 * ploop_pdelta_add() - show a delta
 * @delta: in the stack
 *
 * Return: 0 or an errno.
 */
int ploop_pdelta_add(struct ploop_delta *delta)
{
	return kobject_add(&delta->kobj, delta->dev->pdelta, "%u", delta->level);
}

/**
 * ploop_pdelta_del() - stop showing a delta
 * @delta: shown
 *
 * Nobody reads its attributes any more when this returns.
 */
void ploop_pdelta_del(struct ploop_delta *delta)
{
	kobject_del(&delta->kobj);
}

/**
 * ploop_pdelta_renumber() - show a delta at its new level
 * @delta: shown at another; nothing is at the new one
 */
void ploop_pdelta_renumber(struct ploop_delta *delta)
{
	char name[12];
	int ret;

	snprintf(name, sizeof(name), "%u", delta->level);
	ret = kobject_rename(&delta->kobj, name);
	if (ret)
		ploop_err(delta->dev, "level %u keeps its old name in sysfs: %d\n", delta->level,
			  ret);
}
