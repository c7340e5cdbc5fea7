#!/usr/bin/env bash
# Installs the system packages that lsvd-fuse needs. The README's commands and CI share it.
#
#   scripts/install-deps.sh            what building and running need
#   scripts/install-deps.sh --tests    also what the tests and the benchmark need
#   scripts/install-deps.sh --s3       also what scripts/s3-server needs
#   scripts/install-deps.sh --ceph     also what scripts/ceph needs
#
# The options may be combined. It decides by the programs that are there, not by package versions:
# what is installed is never upgraded or downgraded, and a second run does nothing and says nothing.
# It installs with apt-get (Debian, Ubuntu), through sudo where it is not root; elsewhere it says
# what is missing. moto, the S3 server, comes from PyPI into ~/.cache/lsvd/moto.
#
# librados is wanted, too, but nothing fails without it: then the build has no RADOS stores.
set -euo pipefail

# program:package; a path (or pattern) stands for a file that is no program of the PATH. Nothing links
# against libfuse: mounting needs only the device and, for users other than root, the set-uid helper
# fusermount3. The C compiler builds zstd.
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

needed_by_s3=(
  /usr/bin/python3:python3
  # Debian's Python makes no environment without this.
  '/usr/lib/python3*/ensurepip/__init__.py:python3-venv'
  openssl:openssl
)
needed_by_ceph=(
  ceph-mon:ceph-mon
  ceph-osd:ceph-osd
  ceph:ceph-common
  radosgw:radosgw
  '/usr/lib/python3*/dist-packages/rados*.so:python3-rados'
)

moto=
for option in "$@"; do
  case $option in
    --tests) needed+=("${needed_by_tests[@]}") ;;
    --s3)
      needed+=("${needed_by_s3[@]}")
      moto=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/lsvd/moto
      ;;
    --ceph) needed+=("${needed_by_ceph[@]}") ;;
    *)
      echo "usage: scripts/install-deps.sh [--tests] [--s3] [--ceph]" >&2
      exit 2
      ;;
  esac
done

# The tools of file systems and loop devices live where a plain user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

is_there() {
  if [[ $1 == /* ]]; then
    compgen -G "$1" >/dev/null
  else
    command -v "$1" >/dev/null
  fi
}

programs=()
packages=()
for entry in "${needed[@]}"; do
  if ! is_there "${entry%%:*}"; then
    programs+=("${entry%%:*}")
    packages+=("${entry##*:}")
  fi
done

if ! command -v cargo >/dev/null && ! [[ -x ${CARGO_HOME:-${HOME:-/root}/.cargo}/bin/cargo ]]; then
  echo "note: there is no Rust toolchain here; https://rustup.rs installs one (1.95 or later is needed)" >&2
fi

# quietly COMMAND...: shows what it said only if it failed.
quietly() {
  local said
  if ! said=$("$@" </dev/null 2>&1); then
    echo "$said" >&2
    echo "install-deps: failed: $*" >&2
    return 1
  fi
}

# apt ARGUMENTS...: apt-get as root. Fails where there is no way to that.
apt() {
  local as_root=()
  if ((EUID != 0)); then
    as_root=(sudo)
  fi
  quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@"
}

can_apt() {
  command -v apt-get >/dev/null && { ((EUID == 0)) || command -v sudo >/dev/null; }
}

install() {
  apt install --yes --no-install-recommends --no-upgrade "$@"
}

install_packages() {
  if ! command -v apt-get >/dev/null; then
    echo "install-deps: missing programs: ${programs[*]}" >&2
    echo "This is no Debian or Ubuntu; please install what holds them here (there: ${packages[*]})." >&2
    exit 1
  fi
  if ! can_apt; then
    echo "install-deps: missing programs: ${programs[*]}" >&2
    echo "Installing them takes root and there is no sudo. As root: apt-get install ${packages[*]}" >&2
    exit 1
  fi
  echo "installing ${packages[*]}"
  apt update
  install "${packages[@]}"
  local program
  for program in "${programs[@]}"; do
    if ! is_there "$program"; then
      echo "install-deps: $program is still missing after installing ${packages[*]}" >&2
      exit 1
    fi
  done
}

has_rados() {
  [[ -n $("${BASH_SOURCE[0]%/*}/rados-feature.sh" 2>/dev/null) ]]
}

# What is not installed because nobody could install it here is no reason to stop.
install_rados() {
  if has_rados || ! can_apt; then
    return
  fi
  echo "installing librados-dev"
  if ! apt update || ! install librados-dev || ! has_rados; then
    echo "note: going on without librados: the build will have no RADOS stores" >&2
  fi
}

# A Python environment of its own, which is in place as a whole or not at all.
install_moto() {
  local version=5.2.5
  if [[ $(cat "$moto/version" 2>/dev/null) == "$version" ]]; then
    return
  fi
  echo "installing moto $version into $moto"
  rm -rf -- "$moto"
  quietly /usr/bin/python3 -m venv "$moto"
  quietly "$moto/bin/pip" install "moto[s3]==$version" flask==3.1.3 flask-cors==6.0.5
  echo "$version" >"$moto/version"
}

if ((${#packages[@]} > 0)); then
  install_packages
fi
install_rados
if [[ -n $moto ]]; then
  install_moto
fi
