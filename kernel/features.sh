#!/bin/sh
# What does this kernel offer? Tried with its compiler and headers, not asked by its version: distributions take parts of later
# kernels into earlier ones, and an update may change an interface.
#   features.sh COMPILER [FLAG...]      prints a header; the kernel's build calls it, in the folder where the flags hold
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# has NAME 'HEADER...' TEXT: PLOOP_HAS_NAME is defined if TEXT compiles as the body of a function.
has() {
    {
        for header in $2; do echo "#include <linux/$header>"; done
        echo 'void ploop_try(void);'
        echo "void ploop_try(void) { $3 }"
    } > "$work/$1.c"
    names="$names $1"
}
names=

# Nothing else is worth asking if this does not compile.
has NOTHING 'blkdev.h' ''
has BLK_MODE 'blkdev.h' 'struct block_device_operations ops = { 0 }; int (*open)(struct gendisk *, blk_mode_t) = 0; ops.open = open;'
has QUEUE_LIMITS 'blk-mq.h blkdev.h' \
    'struct queue_limits lim = { .features = BLK_FEAT_WRITE_CACHE }; blk_mq_alloc_disk((struct blk_mq_tag_set *)0, &lim, (void *)0);'
has SETTERS 'blkdev.h' 'blk_queue_max_hw_sectors((struct request_queue *)0, 1); blk_queue_write_cache((struct request_queue *)0, true, true);'
has LIMITS_FROZEN 'blkdev.h' 'if (queue_limits_commit_update_frozen((struct request_queue *)0, (struct queue_limits *)0)) return;'
has FREEZE_FLAGS 'blk-mq.h blkdev.h' 'unsigned int flags = blk_mq_freeze_queue((struct request_queue *)0); (void)flags;'
has SHOULD_MERGE 'blk-mq.h' 'int flags = BLK_MQ_F_SHOULD_MERGE; (void)flags;'
has BDEV_FREEZE 'blkdev.h' 'if (bdev_freeze((struct block_device *)0) || bdev_thaw((struct block_device *)0)) return;'
has BDEV_MAPPING 'blkdev.h' 'struct block_device *bdev = 0; struct address_space *mapping = bdev->bd_mapping; (void)mapping;'
has HOLDER_OPS 'blkdev.h' \
    'struct block_device *bdev = 0; mutex_lock(&bdev->bd_holder_lock); bdev->bd_holder_ops->sync(bdev); (void)bdev->bd_holder_ops->freeze;'
has SHRINKER_ALLOC 'shrinker.h' 'struct shrinker *s = shrinker_alloc(0, "x"); shrinker_register(s); shrinker_free(s);'
has PLUG_TIME 'blkdev.h' 'blk_plug_invalidate_ts();'
has PLUG_TIME_OF 'blkdev.h' 'blk_plug_invalidate_ts(current);'
has END_WRITE 'fs.h' 'kiocb_end_write((struct kiocb *)0);'
has BVEC_OFFSET 'bvec.h' 'struct bvec_iter iter = { .bi_offset = 0 }; (void)iter;'
has NODE_INT 'blk-mq.h' \
    'int (*init)(struct blk_mq_tag_set *, struct request *, unsigned int, int) = 0; struct blk_mq_ops ops = { .init_request = init }; (void)ops;'
has RUN_WORKER 'kthread.h' 'kthread_run_worker(0, "x");'

cat << 'END'
/* SPDX-License-Identifier: GPL-2.0 */
/* Made by features.sh. */
END
for name in $names; do
    "$@" -Werror=implicit-function-declaration -Werror=incompatible-pointer-types -fsyntax-only -x c "$work/$name.c" > "$work/$name.log" 2>&1 && : > "$work/$name.yes" &
done
wait
if [ ! -e "$work/NOTHING.yes" ]; then
    echo "features.sh: nothing compiles with this kernel's headers:" >&2
    cat "$work/NOTHING.log" >&2
    exit 1
fi
for name in $names; do
    if [ -e "$work/$name.yes" ]; then
        echo "#define PLOOP_HAS_$name 1"
    # "No" is an error at some place of a text. A full disk or a killed compiler is no answer.
    elif [ ! -s "$work/$name.c" ] || ! grep -q ':[0-9][0-9]*: ' "$work/$name.log"; then
        echo "features.sh: cannot find out whether the kernel has $name:" >&2
        cat "$work/$name.log" >&2
        exit 1
    fi
done
