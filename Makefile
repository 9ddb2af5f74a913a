# Godwit. The one prerequisite is a Swift 6.2 (or later) toolchain on the path; Debian packages are installed here when
# they are missing. `make help` lists the targets.

SWIFT ?= swift
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=

# Every Debian package that anything here needs: one list for each purpose. Building needs the headers, running a disk
# the tools, and so on; packages/% installs what is missing from its list.
packages_build = libzstd-dev libssl-dev libexpat1-dev libtomlplusplus-dev liburing-dev libssh-dev libnbd-dev \
	nbdkit-plugin-dev pkg-config
packages_run = libnbd-bin fuse3 nbd-client e2fsprogs util-linux openssh-client
packages_demo = $(packages_build) $(packages_run) postgresql openssh-server jq
packages_test = $(packages_demo) nbdkit qemu-utils ploop fio sqlite3 mandoc btrfs-progs
packages_kernelquick = qemu-system-x86 busybox-static kmod cpio xz-utils lz4 zstd gcc gcc-12 make libc6-dev libelf-dev pahole
packages_kernel = $(packages_kernelquick) perl sparse ploop fio e2fsprogs xfsprogs btrfs-progs parted gdisk fdisk dmsetup \
	nbdkit nbdkit-plugin-dev libnbd-bin nfs-kernel-server rpcbind lsof qemu-utils util-linux bsdextrautils iproute2
packages_kerneldebug = $(packages_kernel) bc bison flex libssl-dev
packages_dkms = dkms
packages_bench = $(packages_test) restic borgbackup zstd time

built = .build/release
# Static Swift libraries: the first flag for the executable, the second for the shared object that nbdkit loads.
release_flags = -c release --static-swift-stdlib -Xswiftc -static-stdlib

bindir = $(DESTDIR)$(PREFIX)/bin
# mount(8) looks for its helpers in /sbin, which on Debian is this folder, and nowhere else.
sbindir = $(DESTDIR)/usr/sbin
mount_helpers = mount.godwit umount.godwit
libdir = $(DESTDIR)$(PREFIX)/lib/godwit
unitdir = $(DESTDIR)$(PREFIX)/lib/systemd/system
sharedir = $(DESTDIR)$(PREFIX)/share
mandir = $(sharedir)/man
confdir = $(DESTDIR)$(SYSCONFDIR)/godwit
pages = $(notdir $(wildcard man/*.[1-9]))

.PHONY: help demo demo-vm check soak mutants build release bench torture fuzz lint install uninstall stage clean packages/% docs-lint \
	check-kernel check-kernel-agent check-kernel-quick check-kernel-debug soak-kernel soak-kernel-tester kunit bench-kernel \
	install-dkms uninstall-dkms

help:
	@echo "make demo       install what is needed, build, and run the whole way once: backup, crash, migration, restore"
	@echo "make demo-vm    the same on the driver, in two virtual machines, with a power cut"
	@echo "make check      install what is needed, build, pass all tests"
	@echo "make soak       the simulation, for SECONDS=3600 from seed FIRST=1 on, in as many processes as there are processors"
	@echo "make mutants    put one fault back at a time: the tests must notice each (MUTANTS= for those of some names)"
	@echo "make build      debug build"
	@echo "make release    the binary and the plugin, without need of a Swift toolchain"
	@echo "make bench      measure against peers (BENCH_ARGS= for a part, see Tests/Bench)"
	@echo "make torture    real kills, cuts and full file systems at random instants (FAULTS=1000), a run for each processor"
	@echo "make fuzz       run every parser's fuzzer for a while (FUZZ_SECONDS=60)"
	@echo "make check-kernel        the driver: compile matrix, then the suite in virtual machines, on 6.1 and 6.12"
	@echo "make check-kernel-agent  the last part of it: the agent on the driver"
	@echo "make check-kernel-quick  the part of it that fits into a few minutes"
	@echo "make check-kernel-debug  the suite on a kernel with KASAN, lockdep and the like, built once and cached"
	@echo "make soak-kernel         some 500 power cuts, in half an hour (ROUNDS= POINTS= AGENT_POINTS= CUTS=)"
	@echo "make soak-kernel-tester  the driver's random tester for TESTER_HOURS=4, on three kernels in turn"
	@echo "make kunit      unit tests within the kernel (KUnit), in one that is a program (User-Mode Linux)"
	@echo "make bench-kernel        the driver against loop, dm-thin and qemu-nbd, in one virtual machine"
	@echo "make lint       format, manual pages, shell scripts"
	@echo "make install    PREFIX=$(PREFIX) SYSCONFDIR=$(SYSCONFDIR) DESTDIR=$(DESTDIR)"
	@echo "make install-dkms        the kernel driver, built for this kernel and, by DKMS, for those to come; uninstall-dkms"
	@echo "make uninstall  the same, reversed; the configuration stays"

packages/%:
	@.ci/packages $(packages_$*)

demo: packages/demo release
	$(MAKE) --no-print-directory stage
	Tests/Demo/demo.sh

demo-vm: packages/demo packages/kernel release
	$(MAKE) --no-print-directory stage
	Tests/Demo/demo-vm.sh

# The debug build serves all tests, the end-to-end ones included. Of the driver's tests, those that take minutes.
check: packages/test packages/kernelquick docs-lint
	$(SWIFT) build
	$(SWIFT) build --build-tests
	$(SWIFT) test --skip-build
	Tests/Simulate/soak.sh .build/debug/simulate 120
	kernel/tests/suite -k 6.1 $(kernel_groups_quick) -k 6.12 $(kernel_groups_smoke)

# The simulation of disks, stores and hosts, optimised: each seed is a world of its own.
SECONDS ?= 3600
FIRST ?= 1

soak: packages/build
	$(SWIFT) build -c release --product simulate
	Tests/Simulate/soak.sh .build/release/simulate $(SECONDS) $(FIRST)

mutants: packages/test packages/kernelquick
	$(SWIFT) build
	$(SWIFT) build --build-tests
	status=0; SWIFT="$(SWIFT)" Tests/Mutants/run.sh $(MUTANTS) || status=1; \
		$(if $(MUTANTS),,kernel/tests/mutants/run || status=1;) exit $$status

build: packages/build
	$(SWIFT) build

release: packages/build
	$(SWIFT) build $(release_flags) --product nbdkit-godwit-plugin
	$(SWIFT) build $(release_flags) --product godwit

bench: packages/bench release
	$(MAKE) --no-print-directory stage
	Tests/Bench/bench.sh $(BENCH_ARGS)

fuzz: packages/build
	Tests/Fuzz/run.sh

lint: packages/test docs-lint
	$(SWIFT) format lint --strict --parallel --recursive Sources Tests Package.swift

docs-lint:
	mandoc -T lint -W warning man/*.[1-9]
	for script in .ci/run .ci/packages $$(find Tests -name '*.sh') $$(grep -lr '^#!/bin/bash' kernel/tests) \
		kernel/tests/groups/* kernel/tests/*/*.sh kernel/tests/*.sh; do bash -n "$$script" || exit 1; done

# Backup, restore and migration under faults. Each run prints its seed; GODWIT_SEED= repeats it.
# Optimised, program and tests alike: several times as many faults in the same time.
FAULTS ?= 1000
torture_runs = $(shell nproc)
torture_folder = .build-torture
torture_flags = -c release -Xswiftc -enable-testing --scratch-path $(torture_folder)

torture: packages/test
	$(SWIFT) build $(torture_flags)
	$(SWIFT) build $(torture_flags) --build-tests
	$(MAKE) --no-print-directory -j$(torture_runs) $(foreach run,$(shell seq $(torture_runs)),torture/$(run))

# The tests' program itself, as `swift test` lets only one run of itself use a build at a time.
torture/%:
	GODWIT_TORTURE=$$(($(FAULTS) / $(torture_runs))) $(torture_folder)/release/godwitPackageTests.xctest \
		--testing-library swift-testing --filter TortureTests

# The driver. Groups joined by + share a guest; see kernel/tests/suite.
kernel_groups = abi+control+records+module waiting stable fsx blocks readonly+large+hostile+errors fio+filesystems flush+freeze+late+nfs memory tools powercut writelog
kernel_groups_quick = abi+control+records+fsx-quick
kernel_groups_smoke = abi+fsx-quick
# On the debug kernel: all of them, fsx in its short form, and those that only it can run; in two lanes that take about as long.
kernel_groups_debug_1 = kunit+abi+control+records+module errors faults writelog fio+filesystems
kernel_groups_debug_2 = fsx-quick waiting blocks memory readonly+large+hostile flush+freeze+late+nfs tools powercut
# The agent on the driver; these need the debug build, and its tests.
kernel_groups_agent = agent agentmount agentalias agentspace agentnbd agentsuite

# Both kernels at a time: a guest leaves a second processor idle more often than not.
check-kernel: packages/kerneldebug
	kernel/tests/matrix
	kernel/tests/uml
	$(MAKE) --no-print-directory -j2 check-kernel/6.1 check-kernel/6.12
	$(MAKE) --no-print-directory check-kernel-agent

check-kernel/%:
	kernel/tests/suite -k $* $(kernel_groups)

check-kernel-agent: packages/test packages/kernel
	$(SWIFT) build
	$(SWIFT) build --build-tests
	$(MAKE) --no-print-directory -j2 check-kernel-agent/6.1 check-kernel-agent/6.12

check-kernel-agent/%:
	kernel/tests/suite -k $* $(kernel_groups_agent)

check-kernel-quick: packages/kernelquick
	kernel/tests/suite -k 6.1 $(kernel_groups_quick) -k 6.12 $(kernel_groups_smoke)

check-kernel-debug: packages/kerneldebug
	$(MAKE) --no-print-directory -j2 check-kernel-debug/1 check-kernel-debug/2

check-kernel-debug/%:
	kernel/tests/suite -k debug $(kernel_groups_debug_$*)

# Power cuts, some 500: the bar of a release. ROUNDS runs are recorded, with so many POINTS to cut at in each; the agent's run
# has AGENT_POINTS; CUTS are those of a whole machine.
ROUNDS ?= 6
POINTS ?= 80
AGENT_POINTS ?= 16
CUTS ?= 16

soak-kernel: packages/kernel packages/build
	$(SWIFT) build --product godwit
	POINTS=$(POINTS) AGENT_POINTS=$(AGENT_POINTS) CUTS=$(CUTS) \
		kernel/tests/suite -k 6.1 $(foreach round,$(shell seq $(ROUNDS)),writelog) agentcuts powercut

# The driver's random tester, TESTER_HOURS in all: a third of each hour on either kernel and on the debug one.
TESTER_HOURS ?= 4

soak-kernel-tester: packages/kerneldebug
	kernel/tests/suite $(foreach hour,$(shell seq $(TESTER_HOURS)),-k 6.1 tester -k 6.12 tester -k debug tester)

kunit: packages/kerneldebug
	kernel/tests/uml

bench-kernel: packages/kernel
	kernel/tests/bench/run .build/bench-kernel.json

install: release
	install -d $(bindir) $(sbindir) $(libdir) $(unitdir) $(confdir) $(sharedir)/doc/godwit/examples $(mandir)/man1 $(mandir)/man4 $(mandir)/man5 \
		$(mandir)/man7 $(mandir)/man8 $(sharedir)/bash-completion/completions $(sharedir)/zsh/site-functions \
		$(sharedir)/fish/vendor_completions.d
	install -m 755 -s $(built)/godwit $(bindir)/godwit
	install -m 644 -s $(built)/libnbdkit-godwit-plugin.so $(libdir)/nbdkit-godwit-plugin.so
	for helper in $(mount_helpers); do \
		sed 's|@bindir@|$(PREFIX)/bin|' conf/mount/$$helper > $(sbindir)/$$helper && chmod 755 $(sbindir)/$$helper || exit 1; \
	done
	for page in $(pages); do install -m 644 man/$$page $(mandir)/man$${page##*.}/ || exit 1; done
	test -e $(confdir)/godwit.toml || install -m 640 conf/godwit.toml $(confdir)/godwit.toml
	sed 's|@bindir@|$(PREFIX)/bin|' conf/systemd/godwit-backup.service > $(unitdir)/godwit-backup.service
	sed 's|@bindir@|$(PREFIX)/bin|' conf/systemd/godwit-recover.service > $(unitdir)/godwit-recover.service
	install -m 644 conf/systemd/godwit-backup.timer $(unitdir)/
	sed 's|@bindir@|$(PREFIX)/bin|' conf/godwit.cron > $(sharedir)/doc/godwit/examples/godwit.cron
	install -m 644 README.md CHANGELOG.md LICENSE conf/godwit.toml $(sharedir)/doc/godwit/
	$(built)/godwit --generate-completion-script bash > $(sharedir)/bash-completion/completions/godwit
	$(built)/godwit --generate-completion-script zsh > $(sharedir)/zsh/site-functions/_godwit
	$(built)/godwit --generate-completion-script fish > $(sharedir)/fish/vendor_completions.d/godwit.fish

uninstall:
	rm -f $(bindir)/godwit $(addprefix $(sbindir)/,$(mount_helpers)) $(unitdir)/godwit-backup.service $(unitdir)/godwit-backup.timer \
		$(unitdir)/godwit-recover.service \
		$(foreach page,$(pages),$(mandir)/man$(patsubst .%,%,$(suffix $(page)))/$(page)) \
		$(sharedir)/bash-completion/completions/godwit $(sharedir)/zsh/site-functions/_godwit \
		$(sharedir)/fish/vendor_completions.d/godwit.fish
	rm -rf $(libdir) $(sharedir)/doc/godwit

# The driver's sources for DKMS, and the host's files for it. With DESTDIR nothing is built and nothing asked of DKMS.
version = $(shell sed -n 's/^## \[\?\([0-9][0-9.]*\).*/\1/p' CHANGELOG.md | head -n 1)
dkmsdir = $(DESTDIR)/usr/src/godwit-ploop-$(version)
kernel_hooks = $(DESTDIR)/etc/kernel/postinst.d/godwit-ploop $(DESTDIR)/etc/kernel/header_postinst.d/godwit-ploop

install-dkms: $(if $(DESTDIR),,packages/dkms)
	rm -rf $(dkmsdir)
	install -d $(dkmsdir) $(DESTDIR)/etc/modprobe.d $(DESTDIR)/etc/modules-load.d $(DESTDIR)/etc/udev/rules.d \
		$(sort $(dir $(kernel_hooks))) $(DESTDIR)$(PREFIX)/include/linux
	cd kernel && cp -r COPYING Kbuild Makefile features.sh compat.h core format include io $(dkmsdir)/
	sed 's/@version@/$(version)/' kernel/dkms.conf > $(dkmsdir)/dkms.conf
	for hook in $(kernel_hooks); do \
		sed 's/@version@/$(version)/' conf/kernel/godwit-ploop > $$hook && chmod 755 $$hook || exit 1; \
	done
	install -m 644 conf/modprobe.d/godwit-ploop.conf $(DESTDIR)/etc/modprobe.d/
	install -m 644 conf/modules-load.d/godwit-ploop.conf $(DESTDIR)/etc/modules-load.d/
	install -m 644 conf/udev/60-godwit-ploop.rules $(DESTDIR)/etc/udev/rules.d/
	install -m 644 kernel/include/uapi/*.h $(DESTDIR)$(PREFIX)/include/linux/
ifeq ($(DESTDIR),)
	dkms status -m godwit-ploop -v $(version) | grep -q . && dkms remove godwit-ploop/$(version) --all || true
	dkms add godwit-ploop/$(version)
	for kernel in $$(ls /lib/modules); do /etc/kernel/postinst.d/godwit-ploop "$$kernel"; done
endif

uninstall-dkms:
ifeq ($(DESTDIR),)
	dkms remove godwit-ploop/$(version) --all || true
endif
	rm -rf $(dkmsdir)
	rm -f $(kernel_hooks) $(DESTDIR)/etc/modprobe.d/godwit-ploop.conf $(DESTDIR)/etc/modules-load.d/godwit-ploop.conf \
		$(DESTDIR)/etc/udev/rules.d/60-godwit-ploop.rules \
		$(addprefix $(DESTDIR)$(PREFIX)/include/linux/,ploop_control.h ploop_ioctl.h)

# A private installation for the demo and the benchmarks.
stage:
	@$(MAKE) --no-print-directory --silent install DESTDIR=$(CURDIR)/.build/stage PREFIX=/usr

clean:
	rm -rf .build $(torture_folder)
