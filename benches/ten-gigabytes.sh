#!/usr/bin/env bash
# Publishes a file of 10 GB and brings it to two hosts on this machine: a seeder and two agents as
# separate processes on loopback. Prints times and the peak memory of every process, checks what
# arrived, and cleans up. Exits with 1 if a process needed more than the limit or a host did not get
# the build.
#
#   benches/ten-gigabytes.sh [--gigabytes N] [--folder DIR]
#
# Needs four times the size on disk (source, store, two hosts). Peak memory is VmHWM, which the
# kernel keeps per process and which only grows; daemons are asked before they are stopped, the
# publisher every 50 ms.
set -euo pipefail

gigabytes=10
parent=${TMPDIR:-/tmp}
limit_mib=200
while [ $# -gt 0 ]; do
    case "$1" in
        --gigabytes) gigabytes=${2:?--gigabytes needs a number}; shift 2 ;;
        --folder) parent=${2:?--folder needs a directory}; shift 2 ;;
        *) echo "ten-gigabytes: unknown argument $1; usage: benches/ten-gigabytes.sh [--gigabytes N] [--folder DIR]" >&2; exit 2 ;;
    esac
done
case "$gigabytes" in ''|*[!0-9]*|0) echo "ten-gigabytes: --gigabytes takes a whole number above 0" >&2; exit 2 ;; esac

cd "$(dirname "$0")/.."
cargo build --release --locked --quiet --bin shoal
shoal=$PWD/target/release/shoal

bytes=$((gigabytes * 1000000000))
free=$(df --output=avail -B1 "$parent" | tail -1)
if [ "$free" -lt $((bytes * 4 + bytes / 10)) ]; then
    echo "ten-gigabytes: $parent has $free bytes free, $((bytes * 4 + bytes / 10)) are needed; name another place with --folder" >&2
    exit 1
fi

folder=$(mktemp -d "$parent/shoal-ten-gigabytes-XXXXXX")
pids=()
clean_up() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

now() { date +%s.%N; }
seconds_since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }
peak_mib() { awk '/^VmHWM/ { printf "%d", $2 / 1024 }' "/proc/$1/status"; }
wait_for() { # what, command...
    local what=$1 started; shift; started=$(date +%s)
    until "$@"; do
        if [ $(($(date +%s) - started)) -gt 1800 ]; then echo "ten-gigabytes: gave up waiting for $what" >&2; exit 1; fi
        sleep 0.2
    done
}

echo "machine: $(nproc) cores, $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo), $(awk '/MemTotal/ { printf "%d GiB", $2 / 1048576 }' /proc/meminfo), $(uname -r), $(df --output=fstype "$folder" | tail -1)"
echo "making $gigabytes GB of random bytes"
head -c "$bytes" /dev/urandom > "$folder/data"

started=$(now)
"$shoal" publish "$folder/data" --app big --store "$folder/store" > "$folder/build" 2> "$folder/publish.log" &
publisher=$!
publisher_peak=0
while kill -0 "$publisher" 2>/dev/null; do
    seen=$(peak_mib "$publisher" 2>/dev/null || true)
    if [ "${seen:-0}" -gt "$publisher_peak" ]; then publisher_peak=$seen; fi
    sleep 0.05
done
wait "$publisher" || { cat "$folder/publish.log" >&2; exit 1; }
publish_seconds=$(seconds_since "$started")
build=$(cat "$folder/build")
echo "publish: $publish_seconds s, peak $publisher_peak MiB"

mkdir -p "$folder/goal"
"$shoal" seeder --store "$folder/store" --listen 127.0.0.1:0 --state "$folder/seeder" > "$folder/address" 2> "$folder/seeder.log" &
seeder=$!; pids+=("$seeder")
wait_for "the seeder" test -s "$folder/address"
address=$(cat "$folder/address")
for host in one two; do
    "$shoal" agent --host "$host" --state "$folder/$host" --goal "file://$folder/goal" \
        --seeder "$address" --listen 127.0.0.1:0 --app big > "$folder/$host.log" 2>&1 &
    pids+=("$!")
done
started=$(now)
"$shoal" deploy big "$build" --goal "file://$folder/goal" > /dev/null 2>&1
both_run() {
    [ "$("$shoal" status big --goal "file://$folder/goal" --json 2>/dev/null | grep -o '"phase": *"running"' | wc -l)" -eq 2 ]
}
wait_for "both hosts" both_run
deploy_seconds=$(seconds_since "$started")
echo "deploy to two hosts: $deploy_seconds s, $(awk -v b="$bytes" -v t="$deploy_seconds" 'BEGIN { printf "%d", 2 * b / t / 1000000 }') MB/s over both"

status=0
report() { # name, peak
    local verdict=ok
    if [ "$2" -gt "$limit_mib" ]; then verdict="over the limit of $limit_mib MiB"; status=1; fi
    printf '%-10s peak %4d MiB  %s\n' "$1" "$2" "$verdict"
}
report publish "$publisher_peak"
report seeder "$(peak_mib "${pids[0]}")"
report agent-one "$(peak_mib "${pids[1]}")"
report agent-two "$(peak_mib "${pids[2]}")"
"$shoal" status big --goal "file://$folder/goal"
for host in one two; do
    if cmp -s "$folder/data" "$folder/$host/apps/big/current/data"; then
        echo "$host: every byte is right"
    else
        echo "$host: the bytes differ" >&2; status=1
    fi
done
exit "$status"
