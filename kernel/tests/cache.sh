# Sourced. Where kernels are kept between runs, outside the tree, and how Debian's source package gets there.

cache=${XDG_CACHE_HOME:-/var/cache}/godwit
mkdir -p "$cache" 2>/dev/null || true
if [ ! -w "$cache" ]; then
    cache=${HOME:?}/.cache/godwit
    mkdir -p "$cache"
fi

# fetch FOLDER PACKAGE...: downloads Debian packages with apt and unpacks them into FOLDER. Nothing is installed: a kernel
# under test must not become the one that this machine boots next.
fetch() {
    local folder=$1 downloads
    shift
    downloads=$(mktemp -d "$cache/download.XXXXXX")
    (
        trap 'rm -rf "$downloads"' EXIT
        cd "$downloads"
        apt-get -q -o APT::Sandbox::User=root download "$@" >&2
        for package in *.deb; do dpkg-deb -x "$package" "$folder"; done
    )
}

# kernel_source VERSION: the unpacked source tree of linux-source-VERSION; prints its path.
kernel_source() {
    local version=$1 package=linux-source-$1 release folder partial
    release=$(apt-cache show --no-all-versions "$package" | sed -n 's/^Version: //p')
    folder=$cache/source-$release
    (
        flock 8
        if [ ! -d "$folder" ]; then
            partial=$(mktemp -d "$cache/source.XXXXXX")
            trap 'rm -rf "$partial"' EXIT
            fetch "$partial" "$package"
            mkdir "$partial/tree"
            tar -C "$partial/tree" --strip-components=1 -xf "$partial/usr/src/$package.tar.xz"
            mv "$partial/tree" "$folder"
        fi
    ) 8> "$cache/source.lock" >&2
    echo "$folder"
}
