# shellcheck shell=bash
# What scripts/s3-server and scripts/ceph share; they source it after they have set `self`, their own
# path, and define `is_ours`, which says whether $dir holds a server of theirs.

: "${self:?is set by the script that sources this}"

die() {
  echo "${self##*/}: $*" >&2
  exit 1
}

wrong_usage() {
  echo "${self##*/}: $*; scripts/${self##*/} --help tells the usage" >&2
  exit 2
}

listens() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Below the range from which the kernel takes ports for outgoing connections: a server that is down
# for a while finds its port free again.
free_port() {
  local port tries=200
  while ((tries-- > 0)); do
    port=$((20000 + RANDOM % 12000))
    if ! listens "$port"; then
      echo "$port"
      return
    fi
  done
  die "found no free port"
}

# When the process started, in ticks since the boot; nothing if there is none of this pid.
birth_of() {
  awk '{ sub(/.*\) /, ""); print $20 }' "/proc/$1/stat" 2>/dev/null
}

# watch_owner DIR PID: destroys what is in DIR when the process is gone; another one may have taken
# over its pid by then.
watch_owner() {
  local dir=$1 owner=$2 born
  born=$(birth_of "$owner") || die "there is no process $owner"
  (
    trap '' HUP
    cd /
    while is_ours && [[ $(birth_of "$owner") == "$born" ]]; do
      sleep 1
    done
    exec "$self" destroy --dir "$dir"
  ) </dev/null >/dev/null 2>&1 9>&- &
}
