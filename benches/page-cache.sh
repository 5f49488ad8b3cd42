#!/bin/sh
# How much of a downloaded build stays in the page cache, with and without --disk-priority low.
#
# usage: benches/page-cache.sh [MIB]      (default 1024)
# Needs fincore (util-linux), a file system on a disk, and cargo build --release -p cli.
set -eu
mib=${1:-1024}
shoal=${SHOAL:-$(dirname "$0")/../target/release/shoal}
work=$(mktemp -d -p "${WORK:-/var/tmp}" shoal-page-cache.XXXXXX)
seeder=
trap '[ -z "$seeder" ] || kill "$seeder"; rm -rf "$work"' EXIT
head -c "${mib}M" /dev/urandom > "$work/data"
build=$("$shoal" publish "$work/data" --app bench --store "$work/store" --json | sed 's/.*"build":"\([0-9a-f]*\)".*/\1/')
"$shoal" seeder --store "$work/store" --listen 127.0.0.1:0 --state "$work/seeder" > "$work/address" 2> "$work/log" &
seeder=$!
until [ -s "$work/address" ]; do kill -0 "$seeder"; sleep 0.1; done
for priority in normal low; do
  "$shoal" fetch "$build" --seeder "$(cat "$work/address")" --out "$work/$priority" \
    --disk-priority "$priority" --json > "$work/report" 2> /dev/null &
  fetch=$!
  peak=0
  while kill -0 "$fetch" 2> /dev/null; do
    now=$(find "$work/$priority" -type f -name data -exec fincore --bytes --noheadings --output RES {} + 2> /dev/null |
      awk '{ sum += $1 } END { printf "%d", sum / 1048576 }')
    [ "$now" -le "$peak" ] || peak=$now
    sleep 0.1
  done
  wait "$fetch"
  seconds=$(sed 's/.*"seconds":\([0-9.]*\).*/\1/' "$work/report")
  echo "{\"disk_priority\":\"$priority\",\"build_mib\":$mib,\"cached_mib_max\":$peak,\"seconds\":$seconds}"
  rm -rf "${work:?}/$priority"
done
