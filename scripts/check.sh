#!/usr/bin/env bash
# Everything that has to hold before a change goes in: format, lints, tests, documentation.
#
#   scripts/check.sh
#
# It does its own set-up (system packages, through scripts/install-deps.sh), stops at the first
# section that fails, and names it. The tests on S3 and Ceph get servers of their own, which are
# started before them and ended after them.
#
# LSVD_TEST_SCALE=N (default 1) makes the randomised campaigns, such as the crash oracle, N times as
# long. LSVD_TEST_SERVERS (default "s3 ceph") says which servers to start: tests that need another
# are skipped, and say so.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

export PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/local/sbin:/usr/sbin:/sbin"
export LSVD_TEST_SCALE="${LSVD_TEST_SCALE:-1}"
if ! [[ $LSVD_TEST_SCALE =~ ^[1-9][0-9]*$ ]]; then
  echo "check: LSVD_TEST_SCALE is ${LSVD_TEST_SCALE@Q}; it must be a whole number from 1" >&2
  exit 2
fi

for server in ${LSVD_TEST_SERVERS=s3 ceph}; do
  if ! [[ $server =~ ^(s3|ceph)$ ]]; then
    echo "check: LSVD_TEST_SERVERS holds ${server@Q}; known are s3 and ceph" >&2
    exit 2
  fi
done

# with SERVER: whether the server is to be started.
with() {
  [[ " $LSVD_TEST_SERVERS " == *" $1 "* ]]
}

# section NAME COMMAND...: runs the command under a heading and says how long it took.
section() {
  local name=$1 status=0
  shift
  local began=$SECONDS
  printf '\n== %s: %s\n' "$name" "$*"
  "$@" || status=$?
  if ((status != 0)); then
    printf '== %s FAILED after %d s (exit code %d)\n' "$name" "$((SECONDS - began))" "$status" >&2
    exit 1
  fi
  printf '== %s passed in %d s\n' "$name" "$((SECONDS - began))"
}

# A minimal toolchain comes without these two.
toolchain() {
  if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    rustup component add rustfmt clippy
  fi
  cargo --version
}

# Both end by themselves, too, should this script be killed. Of what they say only what the tests
# ask for: the rest would reach the programs under test.
servers() {
  local said=
  if with s3; then
    scripts/s3-server start --dir "$servers/s3" --while $$ || return
    said+=$(scripts/s3-server env --dir "$servers/s3" | grep ' LSVD_TEST_')$'\n'
  fi
  if with ceph; then
    scripts/ceph start --rgw --dir "$servers/ceph" --while $$ || return
    said+=$(scripts/ceph env --dir "$servers/ceph" | grep ' LSVD_TEST_')$'\n'
  fi
  echo "$said"
  eval "$said"
}

end_servers() {
  if with s3; then
    scripts/s3-server destroy --dir "$servers/s3"
  fi
  if with ceph; then
    scripts/ceph destroy --dir "$servers/ceph"
  fi
  rmdir -- "$servers"
}

dependencies=(--tests)
if with s3; then
  dependencies+=(--s3)
fi
if with ceph; then
  dependencies+=(--ceph)
fi
section packages scripts/install-deps.sh "${dependencies[@]}"
section toolchain toolchain

# All there is, with the RADOS store if librados is here.
read -ra features < <(scripts/rados-feature.sh) || true
all=(--workspace --locked "${features[@]}")
if cargo nextest --version >/dev/null 2>&1; then
  tests=(cargo nextest run --config-file scripts/nextest.toml "${all[@]}" --no-fail-fast)
else
  tests=(cargo test "${all[@]}" --no-fail-fast --lib --bins --tests --examples)
fi

section format cargo fmt --all -- --check
section lints cargo clippy "${all[@]}" --all-targets -- -D warnings
section docs env RUSTDOCFLAGS="-D warnings" cargo doc "${all[@]}" --no-deps
section "doc tests" cargo test "${all[@]}" --doc
servers=$(mktemp -d)
trap end_servers EXIT
section servers servers
if ((EUID != 0)); then
  echo "note: not root, so the tests that mount will be skipped"
fi
section tests "${tests[@]}"
if ((${#features[@]} > 0)); then
  section "lints without RADOS" cargo clippy --workspace --locked --all-targets -- -D warnings
  section "tests without RADOS" cargo test --workspace --locked --lib -- url::
fi

printf '\nall of format, lints, docs, doc tests and tests passed in %d s\n' "$SECONDS"
