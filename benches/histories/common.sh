# What the histories share: a filesystem of their own on a loop device, and copies of it.
# Sourced; wants root, mount, e2fsprogs and util-linux.

set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "$0 needs root, to mount a filesystem" >&2; exit 1; }

here=$(cd "$(dirname "$0")" && pwd)
steps=0

begin() { # begin DIR MIB: an empty ext4 of MIB, mounted on DIR/mnt
    out=$(mkdir -p "$1" && cd "$1" && pwd)
    image=$out/volume mount=$out/mnt
    rm -f "$out"/[0-9][0-9].img "$image"
    truncate -s "$2M" "$image"
    mke2fs -q -t ext4 -E lazy_itable_init=0 "$image"
    mkdir -p "$mount"
    mount -o loop "$image" "$mount"
    trap finish EXIT
}

finish() {
    umount "$mount" 2>/dev/null || true
    rm -rf "$image" "$mount"
}

# keep WHAT: the volume as a snapshot would see it, as DIR/NN.img
keep() {
    local copy
    copy=$out/$(printf '%02d' "$steps").img
    steps=$((steps + 1))
    sync -f "$mount"
    fsfreeze --freeze "$mount"
    cp --sparse=always "$image" "$copy" || { fsfreeze --unfreeze "$mount"; exit 1; }
    fsfreeze --unfreeze "$mount"
    echo "$copy: $1, $(df --output=used -B1M "$mount" | tail -1 | tr -d ' ') MiB used"
}
