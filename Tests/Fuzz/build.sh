#!/bin/bash
# Builds the fuzz targets with libFuzzer and the address sanitizer. SwiftPM can't: a target's `main` is libFuzzer's.
# usage: build.sh OUTPUT-FOLDER TARGET...
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=$1
shift
mkdir -p "$out"

swiftc=${SWIFTC:-swiftc}
clang=$(dirname "$(readlink -f "$(command -v "$swiftc")")")/clang
[ -x "$clang" ] || clang=clang
swift_flags=(-O -g -parse-as-library -enable-testing -sanitize=address,fuzzer -swift-version 6 -package-name godwit
	-enable-upcoming-feature ExistentialAny -enable-upcoming-feature InternalImportsByDefault
	-enable-upcoming-feature MemberImportVisibility -enable-upcoming-feature NonisolatedNonsendingByDefault
	-enable-experimental-feature Lifetimes -I "$out")
for map in "$root"/Sources/C*/include; do
	name=$(basename "$(dirname "$map")")
	[ -f "$map/$name.h" ] || continue
	printf 'module %s { header "%s/%s.h" export * }\n' "$name" "$map" "$name" > "$out/$name.modulemap"
	swift_flags+=(-Xcc "-fmodule-map-file=$out/$name.modulemap")
done

# C targets that a module needs, and the libraries behind them.
c_targets() {
	case $1 in
	Codecs) echo "CZstd CCrypto" ;;
	ImageFormat) echo CExpat ;;
	LinuxSystem) echo CSystemShims ;;
	BlockIO) echo CRing ;;
	Transport) echo CSSH ;;
	esac
}

library() {
	case $1 in
	CZstd) echo -lzstd ;;
	CCrypto) echo -lcrypto ;;
	CExpat) echo -lexpat ;;
	CRing) echo -luring ;;
	CSSH) echo -lssh ;;
	esac
}

build_c() {
	local source
	for source in "$root/Sources/$1"/*.c; do
		local object=$out/$1-$(basename "$source" .c).o
		[ "$object" -nt "$source" ] ||
			"$clang" -O1 -g -fsanitize=address,fuzzer-no-link -I "$root/Sources/$1/include" -c "$source" -o "$object"
	done
}

# Each module is compiled as a whole into one object; up to date ones stay.
build_module() {
	local name=$1 sources folder=$root/Sources/$1
	if [ "$name" = SystemPackage ]; then
		folder=$root/.build/checkouts/swift-system/Sources/System
		local system=$root/.build/checkouts/swift-system/Sources/CSystem
		[ -d "$folder" ] || { echo "fuzz: run 'swift package resolve' first" >&2; exit 1; }
		swift_flags+=(-Xcc "-fmodule-map-file=$system/include/module.modulemap" -Xcc "-I$system/include")
		"$clang" -O1 -g -I "$system/include" -c "$system/shims.c" -o "$out/CSystem.o"
	fi
	mapfile -t sources < <(find "$folder" -name '*.swift' | sort)
	if [ -f "$out/$name.o" ] && [ -z "$(find "$root/Sources" "$0" -newer "$out/$name.o" -type f -print -quit)" ]; then return; fi
	local flags=("${swift_flags[@]}")
	if [ "$name" = SystemPackage ]; then flags=(-O -g -parse-as-library -sanitize=address -suppress-warnings -swift-version 5 -DSYSTEM_PACKAGE \
		-Xcc "-fmodule-map-file=$system/include/module.modulemap" -I "$out"); fi
	"$swiftc" "${flags[@]}" -wmo -module-name "$name" -emit-module -emit-module-path "$out/$name.swiftmodule" \
		-c "${sources[@]}" -o "$out/$name.o"
}

for target in "$@"; do
	source=$root/Tests/Fuzz/$target.swift
	read -r -a modules < <(sed -n '1,/^[^/]/s|^// modules:||p' "$source" | tr '\n' ' ')
	[ ${#modules[@]} -gt 0 ] || { echo "fuzz: $source does not name its modules" >&2; exit 1; }
	objects=()
	libraries=()
	for module in "${modules[@]}"; do
		for c in $(c_targets "$module"); do
			build_c "$c"
			objects+=("$out/$c"-*.o)
			libraries+=("$(library "$c")")
		done
		build_module "$module"
		objects+=("$out/$module.o")
		if [ "$module" = SystemPackage ]; then objects+=("$out/CSystem.o"); fi
	done
	echo "fuzz: building $target"
	"$swiftc" "${swift_flags[@]}" -module-name "Fuzz$target" "$source" "$root/Tests/Fuzz/Support.swift" \
		"${objects[@]}" "${libraries[@]}" -use-ld=lld -o "$out/fuzz$target"
done
