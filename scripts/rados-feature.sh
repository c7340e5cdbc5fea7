#!/usr/bin/env bash
# Prints the cargo options that build the RADOS store in, if librados is here to link with; else
# prints nothing and says so on stderr.
#
#   cargo build --release $(scripts/rados-feature.sh)
set -euo pipefail

if command -v cc >/dev/null && cc -x c -o /dev/null - -lrados <<<'int main(void) { return 0; }' 2>/dev/null; then
  echo --features lsvd-fuse/rados
else
  echo "note: no librados to link with (librados-dev), so this build has no RADOS stores" >&2
fi
