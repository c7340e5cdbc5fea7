#!/usr/bin/env bash
# Installs the system packages that lsvd-fuse needs. The README's commands and CI share it.
#
#   scripts/install-deps.sh            what building and running need
#   scripts/install-deps.sh --tests    also what the tests and the benchmark need
#
# It decides by the programs that are there, not by package versions: what is installed is never
# upgraded or downgraded, and a second run does nothing and says nothing. It installs with apt-get
# (Debian, Ubuntu), through sudo where it is not root; elsewhere it says what is missing.
#
# librados is wanted, too, but nothing fails without it: then the build has no RADOS stores.
set -euo pipefail

# program:package. Nothing links against libfuse: mounting needs only the device and, for users
# other than root, the set-uid helper fusermount3. The C compiler builds zstd.
needed=(
  cc:gcc
  pkg-config:pkg-config
  fusermount3:fuse3
)
needed_by_tests=(
  fio:fio
  mkfs.ext4:e2fsprogs
  mkfs.xfs:xfsprogs
  mkfs.btrfs:btrfs-progs
  qemu-img:qemu-utils
  losetup:mount
  fstrim:util-linux
  fuser:psmisc
  jq:jq
)

case "${1-}" in
  "") ;;
  --tests) needed+=("${needed_by_tests[@]}") ;;
  *)
    echo "usage: scripts/install-deps.sh [--tests]" >&2
    exit 2
    ;;
esac

# The tools of file systems and loop devices live where a plain user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

programs=()
packages=()
for entry in "${needed[@]}"; do
  if ! command -v "${entry%%:*}" >/dev/null; then
    programs+=("${entry%%:*}")
    packages+=("${entry##*:}")
  fi
done

if ! command -v cargo >/dev/null && ! [[ -x ${CARGO_HOME:-${HOME:-/root}/.cargo}/bin/cargo ]]; then
  echo "note: there is no Rust toolchain here; https://rustup.rs installs one (1.95 or later is needed)" >&2
fi

has_rados() {
  [[ -n $("${BASH_SOURCE[0]%/*}/rados-feature.sh" 2>/dev/null) ]]
}

# What is not installed because nobody could install it here is no reason to stop.
rados_package=
if ! has_rados && command -v apt-get >/dev/null && { ((EUID == 0)) || command -v sudo >/dev/null; }; then
  rados_package=librados-dev
fi

if ((${#packages[@]} == 0)) && [[ -z $rados_package ]]; then
  exit 0
fi

if ! command -v apt-get >/dev/null; then
  echo "install-deps: missing programs: ${programs[*]}" >&2
  echo "This is no Debian or Ubuntu; please install what holds them here (there: ${packages[*]})." >&2
  exit 1
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "install-deps: missing programs: ${programs[*]}" >&2
    echo "Installing them takes root and there is no sudo. As root: apt-get install ${packages[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "installing ${packages[*]} $rados_package"
# quietly COMMAND...: runs it as root and shows what it said only if it failed.
quietly() {
  local said
  if ! said=$("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "$@" </dev/null 2>&1); then
    echo "$said" >&2
    echo "install-deps: failed: $*" >&2
    return 1
  fi
}
quietly apt-get update
install_packages() {
  quietly apt-get install --yes --no-install-recommends --no-upgrade "$@"
}
if ((${#packages[@]} > 0)); then
  install_packages "${packages[@]}"
fi
if [[ -n $rados_package ]] && { ! install_packages "$rados_package" || ! has_rados; }; then
  echo "note: going on without librados: the build will have no RADOS stores" >&2
fi

for program in "${programs[@]}"; do
  if ! command -v "$program" >/dev/null; then
    echo "install-deps: $program is still missing after installing ${packages[*]}" >&2
    exit 1
  fi
done
