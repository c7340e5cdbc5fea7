#!/usr/bin/env bash
# Builds lsvd-fuse and runs it: a disk in a mounted store, with ext4 on it where the user is root.
#
#   scripts/run.sh [start]     set up what is missing, build, mount; safe to repeat
#   scripts/run.sh status      what runs
#   scripts/run.sh stop        unmount in order and drain to the store; safe to repeat
#
#   --dir DIR                  where everything lives (default $LSVD_DEMO_DIR, else $HOME/lsvd-demo)
#
# Below DIR:
#   store/      the objects: the permanent home of the data
#   cache/      write logs and read cache; belongs on a fast local disk
#   volumes/    the mount: every volume as one file
#   disk1/      ext4 on a loop device over volumes/disk1 (only as root)
#
# Nothing here is ever deleted: a later start finds volume and files again, also after a kill -9 of
# the daemon.
set -euo pipefail

export PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/local/sbin:/usr/sbin:/sbin"

volume=disk1
size=10G

die() {
  echo "run: $*" >&2
  exit 1
}

usage() {
  echo "usage: scripts/run.sh [start|status|stop] [--dir DIR]" >&2
  exit 2
}

action=start
dir=${LSVD_DEMO_DIR:-${HOME:-/root}/lsvd-demo}
dir_given=
while (($# > 0)); do
  case $1 in
    start | status | stop) action=$1 ;;
    --dir)
      (($# > 1)) || usage
      dir=$2
      dir_given=yes
      shift
      ;;
    *) usage ;;
  esac
  shift
done
dir=$(realpath --canonicalize-missing -- "$dir")
if [[ $dir =~ [[:space:]\\] ]]; then
  die "the directory ${dir@Q} has white space or a backslash in its name; please choose another with --dir"
fi

dir_option=${dir_given:+ --dir $dir}

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
lsvd=$target/release/lsvd-fuse
volumes=$dir/volumes
disk=$dir/$volume

lsvd_fuse() {
  "$lsvd" --store "file://$dir/store" --cache-dir "$dir/cache" "$@"
}

# is_mounted DIRECTORY: read from the kernel's list, because a stat would fail on a dead FUSE mount.
is_mounted() {
  awk -v wanted="$1" '$5 == wanted { found = 1 } END { exit !found }' /proc/self/mountinfo
}

mount_answers() {
  is_mounted "$volumes" && stat "$volumes/." >/dev/null 2>&1
}

# The loop devices over the volume's file, by name: a stat would fail on a dead FUSE mount.
loop_devices() {
  losetup --noheadings --raw --output NAME,BACK-FILE 2>/dev/null |
    awk -v wanted="$volumes/$volume" '$2 == wanted { print $1 }'
}

detach_loops() {
  local loop
  for loop in $(loop_devices); do
    losetup --detach "$loop"
    echo "detached $loop"
  done
  # Somebody (udev) may hold a device open a moment longer; until it lets go the volume is in use.
  local tries=50
  while [[ -n $(loop_devices) ]] && ((tries-- > 0)); do
    sleep 0.1
  done
}

# After a kill -9 the kernel still lists the mount, but nobody answers there. What was acknowledged
# is safe in the log; the dead mount, and what stood on it, has to go before a new one can come.
clear_dead_mount() {
  echo "$volumes is a dead mount (its daemon is gone); clearing it away"
  if is_mounted "$disk"; then
    umount "$disk" || umount --lazy "$disk"
  fi
  detach_loops
  if ((EUID == 0)); then
    umount --lazy "$volumes"
  else
    fusermount3 -u -z "$volumes"
  fi
}

start_mount() {
  mkdir -p -- "$dir/store" "$dir/cache"
  if is_mounted "$volumes" && ! mount_answers; then
    clear_dead_mount
  fi
  mkdir -p -- "$volumes"
  if mount_answers; then
    echo "$volumes is mounted already"
  else
    lsvd_fuse mount "$volumes"
    echo "mounted the store $dir/store on $volumes"
  fi
  if [[ -e $volumes/$volume ]]; then
    echo "found the volume $volume again"
  else
    lsvd_fuse create "$volume" --size "$size"
    echo "created the volume $volume of $size"
  fi
}

start_ext4() {
  if is_mounted "$disk"; then
    echo "$disk is mounted already"
    return
  fi
  local loop=
  read -r loop < <(loop_devices) || true
  if [[ -z $loop ]]; then
    if ! loop=$(losetup --find --show --direct-io=on "$volumes/$volume"); then
      echo "there is no loop device to be had here (a container?): going on without ext4 on $volume" >&2
      return
    fi
  fi
  # Only a disk that begins with nothing but zeroes is new; anything else is somebody's data.
  local differs=0
  cmp --silent --bytes=1048576 "$loop" /dev/zero || differs=$?
  case $differs in
    0)
      echo "making an ext4 file system on $loop"
      mkfs.ext4 -q "$loop"
      ;;
    1) ;;
    *) die "cannot read $loop; left as it is" ;;
  esac
  mkdir -p -- "$disk"
  mount -t ext4 "$loop" "$disk"
  echo "mounted ext4 on $loop at $disk"
}

# suggest COMMAND PURPOSE
suggest() {
  printf '  # %s\n  %s\n' "$2" "$1"
}

say_what_next() {
  echo
  if is_mounted "$disk"; then
    echo "A file system on a log-structured disk: $disk. Try"
    suggest "cp -r $PWD/volume $disk/ && sync" "put something on it"
    suggest "fstrim -v $disk" "give its free space back to the volume"
  else
    echo "A disk as a file: $volumes/$volume. Try"
    suggest "mkfs.ext4 -F $volumes/$volume" "a file system in it"
    suggest "qemu-img info -f raw $volumes/$volume" "QEMU takes it as a raw drive"
  fi
  suggest "truncate -s 20G $volumes/another" "another volume"
  suggest "cat $volumes/.lsvd/status.json" "what the daemon does"
  suggest "export LSVD_STORE=file://$dir/store LSVD_CACHE_DIR=$dir/cache" "for the commands of lsvd-fuse"
  suggest "$lsvd info $volume" "how far the store lags behind, the state of the log"
  suggest "$lsvd inspect $volume" "superblock, objects and log, checksums verified"
  echo
  echo "Kill the daemon with kill -9 if you like and run scripts/run.sh${dir_option} again: what was synced is there."
  echo "Stop it all:  scripts/run.sh stop${dir_option}"
}

start() {
  scripts/install-deps.sh
  command -v cargo >/dev/null || die "there is no Rust toolchain; https://rustup.rs installs one"
  [[ -e /dev/fuse ]] || die "there is no /dev/fuse here: load the fuse module, or give it to the container (--device /dev/fuse)"
  local features
  read -ra features < <(scripts/rados-feature.sh) || true
  cargo build --release --locked --package lsvd-fuse "${features[@]}" --target-dir "$target"
  start_mount
  if ((EUID == 0)); then
    start_ext4
  else
    echo "not root: no loop device, so no ext4 on $volume"
  fi
  say_what_next
}

status() {
  if mount_answers; then
    echo "mounted: $volumes"
    lsvd_fuse list
  elif is_mounted "$volumes"; then
    echo "dead: $volumes (its daemon is gone; scripts/run.sh starts it again)"
  else
    echo "not mounted: $volumes"
  fi
  local loop
  for loop in $(loop_devices); do
    echo "loop device: $loop"
  done
  if is_mounted "$disk"; then
    echo "mounted: $disk (ext4)"
  fi
}

stop() {
  if is_mounted "$volumes" && ! mount_answers; then
    clear_dead_mount
  fi
  if is_mounted "$disk"; then
    umount "$disk"
    echo "unmounted $disk"
  fi
  detach_loops
  if is_mounted "$volumes"; then
    [[ -x $lsvd ]] || die "$lsvd is gone; build it again (cargo build --release) to unmount $volumes in order"
    lsvd_fuse unmount "$volumes"
  fi
  echo "stopped; the data is in $dir/store"
}

"$action"
