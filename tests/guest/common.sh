# What `prepare` and `run` share: where things lie, and how they say that something can't be had.
# shellcheck shell=bash

# Kept between runs; everything in it can be made again.
guest_dir() {
    local root
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
    echo "${CODAX_GUEST_DIR:-${CARGO_TARGET_DIR:-$root/target}/guest}"
}

fail() { # STATUS WHY
    echo "guest: $2" >&2
    exit "$1"
}

# Callers tell "there is no guest here" from "the guest found something" by this status.
unavailable() { fail 77 "can't be had: $1"; }

# Whether version $1 is at least $2.
at_least() { printf '%s\n%s\n' "$2" "$1" | sort -C -V; }

qemu_version() { "$1" --version | sed -n 's/.* version \([0-9.]*\).*/\1/p'; }

# Copies a program with the libraries it is linked with to where they lie on this machine, or the file to DEST.
copy_in() { # FILE ROOT [DEST]
    local file=$1 root=$2 dest=${3:-$1} library
    mkdir -p "$root$(dirname "$dest")"
    cp -L --preserve=mode "$file" "$root$dest"
    # A script or a static program has none, and ldd fails.
    { ldd "$file" 2>/dev/null || true; } | sed -n 's|^[^/]*\(/[^ ]*\).*|\1|p' | while read -r library; do
        [ -e "$root$library" ] || { mkdir -p "$root$(dirname "$library")" && cp -L "$library" "$root$library"; }
    done
}

# A folder as an archive that the kernel unpacks as its first filesystem; several can be concatenated.
pack() { (cd "$1" && find . -print0 | cpio --null --create --format=newc --quiet --owner=0:0); }
