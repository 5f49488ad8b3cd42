#!/usr/bin/env bash
# What a new version of a build costs a host that has the version before: how much is fetched, how much
# is copied from its own disk, and, where the file system shares blocks, how much disk it takes.
#
#   benches/reuse.sh [--megabytes N] [--folder DIR]
#
# Publishes a file of N MB (default 1000), and versions of it with 5 % of the bytes inserted: in few
# regions, in many small places spread evenly, and in a build of many files of which a few were
# edited. Each is deployed to an agent of its own that runs the first version. Processes on loopback.
# Every byte is checked. Needs eight times the size on disk; cleans up. Needs python3.
set -euo pipefail

megabytes=1000
parent=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
    case "$1" in
        --megabytes) megabytes=${2:?--megabytes needs a number}; shift 2 ;;
        --folder) parent=${2:?--folder needs a directory}; shift 2 ;;
        *) echo "reuse: unknown argument $1; usage: benches/reuse.sh [--megabytes N] [--folder DIR]" >&2; exit 2 ;;
    esac
done
case "$megabytes" in ''|*[!0-9]*|0) echo "reuse: --megabytes takes a whole number above 0" >&2; exit 2 ;; esac

cd "$(dirname "$0")/.."
cargo build --release --locked --quiet --bin shoal
shoal=$PWD/target/release/shoal

folder=$(mktemp -d "$parent/shoal-reuse-XXXXXX")
pids=()
clean_up() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Versions as folders of files. Equal seeds: every run has the same bytes.
make_version() { # kind, folder, megabytes
    python3 - "$@" <<'PY'
import os, random, sys
kind, root, size = sys.argv[1], sys.argv[2], int(sys.argv[3]) * 1_000_000
FILES = 200
old = random.Random(1)
def insert(data, inserts):
    """`inserts`: position and length; positions are those of the old bytes."""
    out, at, noise = [], 0, random.Random(2)
    for position, length in sorted(inserts):
        out += [data[at:position], noise.randbytes(length)]
        at = position
    return b"".join(out + [data[at:]])
def lengths(total, least, most, seed):
    prng = random.Random(seed)
    while total > 0:
        length = min(total, prng.randint(least, most))
        total -= length
        yield length
os.makedirs(root)
if kind.startswith("files"):
    for number in range(FILES):
        data = old.randbytes(size // FILES)
        # One file in twenty gets as many new bytes as it had, in the middle.
        if kind == "files-edited" and number % 20 == 7:
            data = insert(data, [(len(data) // 2, len(data))])
        with open(f"{root}/file-{number:03}", "wb") as file:
            file.write(data)
else:
    data = b"".join(old.randbytes(min(1 << 20, size - at)) for at in range(0, size, 1 << 20))
    new = size // 19  # 5 % of what comes out
    if kind == "clustered":
        inserts = []
        for region in range(4):
            at = size // 5 * (region + 1)
            for length in lengths(new // 4, 300, 64 << 10, region):
                inserts.append((at, length))
                at += 2_000
        data = insert(data, inserts)
    elif kind == "spread":
        pieces = list(lengths(new, 300, 64 << 10, 9))
        step = size // len(pieces)
        data = insert(data, [(step * number, length) for number, length in enumerate(pieces)])
    with open(f"{root}/data", "wb") as file:
        file.write(data)
PY
}

json() { python3 -c 'import json,sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
row() { "$shoal" status web --goal "file://$folder/goal-$1" --json; }
field() { python3 -c 'import json,sys; h=json.load(sys.stdin)["hosts"]; print(h[0].get(sys.argv[1]) if h else "")' "$1"; }
used_mib() { sync -f "$folder"; df --output=used -B1048576 "$folder" | tail -1 | tr -d ' '; }

echo "machine: $(nproc) cores, $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo), $(uname -r), $(df --output=fstype "$folder" | tail -1); $megabytes MB"
"$shoal" seeder --store "$folder/store" --listen 127.0.0.1:0 --state "$folder/seeder" > "$folder/address" 2> "$folder/seeder.log" &
pids+=($!)
until [ -s "$folder/address" ]; do sleep 0.1; done
address=$(cat "$folder/address")

publish() { # kind
    make_version "$1" "$folder/source" "$megabytes"
    "$shoal" publish "$folder/source" --app web --store "$folder/store" --json 2>/dev/null | json build
    rm -r "$folder/source"
}
deploy() { # goal, build
    "$shoal" deploy web "$2" --goal "file://$folder/goal-$1" >/dev/null 2>&1
    until [ "$(row "$1" | field phase) $(row "$1" | field current)" = "running $2" ]; do sleep 0.1; done
}
measure() { # name, old kind, new kind
    local name=$1 old new agent before after
    old=$(publish "$2"); new=$(publish "$3")
    mkdir -p "$folder/goal-$name"
    "$shoal" agent --host "$name" --state "$folder/$name" --goal "file://$folder/goal-$name" --seeder "$address" \
        --listen 127.0.0.1:0 --app web 2> "$folder/$name.log" & agent=$!; pids+=("$agent")
    deploy "$name" "$old"
    before=$(used_mib)
    deploy "$name" "$new"
    after=$(used_mib)
    "$shoal" verify "$folder/$name/apps/web/current/" "$new" >/dev/null
    row "$name" | python3 -c '
import json, sys
name, disk = sys.argv[1:]
row = json.load(sys.stdin)["hosts"][0]
fetched, total = row["bytes_from_seeders"] + row["bytes_from_peers"], row["bytes_total"]
print(json.dumps({"case": name, "bytes": total, "bytes_fetched": fetched, "percent_fetched": round(100 * fetched / total, 2),
    "bytes_reused": row["bytes_reused"], "seconds": row["elapsed_ms"] / 1000, "disk_mib": int(disk)}))' "$name" "$((after - before))"
    kill "$agent"; wait "$agent" 2>/dev/null || true
    rm -rf "${folder:?}/$name"
}
measure clustered plain clustered
measure spread plain spread
measure files files files-edited
