#!/usr/bin/env bash
# Holds the simulator against real processes: the same scenario once as a seeder and hosts in network
# namespaces behind shaped links, once in shoal-simnet. Prints the times of both and how far apart
# they are; exits with 1 if any is further apart than the limit, or if a file arrived damaged.
#
#   simnet/calibrate.sh [--scenario NAME]... [--runs N] [--seeds N] [--limit PERCENT] [--folder DIR] [--programs DIR] [--json]
#
# Needs root (or CAP_NET_ADMIN and CAP_SYS_ADMIN), `ip` and `tc`; the scenario with latency needs the
# kernel's netem as well and is left out, with a line that says so, where there is none. Nothing outside
# the namespaces that it makes is changed, and they are removed however it ends.
#
# What is the same on both sides: number of hosts, rates each way, latency, the lengths of the build's
# chunks (`shoal publish --chunk-lengths-to`), all hosts start at once. The simulator's rates are those
# of the links less what was on them beyond chunks: headers, acknowledgements, packets sent again,
# messages. The shapers count that in the real runs (column "headers"); the simulator knows no packets.
# docs/simulator.md says what else differs.
set -euo pipefail

# name, hosts, Mbit/s of a host, Mbit/s of the seeder, MiB of the build, ms of latency one way
SCENARIOS="
one          1   40   40   64  0
eight        8   40   40   64  0
sixteen     16   40   40   64  0
fast-seeder 12   20   60   64  0
fast-links  12  100  100  128  0
far         12  100  100  128  5
"

usage="usage: simnet/calibrate.sh [--scenario NAME]... [--runs N] [--seeds N] [--limit PERCENT] [--folder DIR] [--programs DIR] [--json]"
refuse() { echo "calibrate: $1" >&2; exit 2; }
fail() { echo "calibrate: $1" >&2; exit 1; }
wants_number() { case "$2" in ''|*[!0-9]*|0) refuse "$1 takes a whole number above 0; $usage" ;; esac; }

wanted="" runs=3 seeds=5 limit=15 parent=${TMPDIR:-/tmp} json=no programs=""
while [ $# -gt 0 ]; do
    case "$1" in
        --scenario) wanted="$wanted ${2:?--scenario needs a name}"; shift 2 ;;
        --runs) runs=${2:?--runs needs a number}; wants_number --runs "$runs"; shift 2 ;;
        --seeds) seeds=${2:?--seeds needs a number}; wants_number --seeds "$seeds"; shift 2 ;;
        --limit) limit=${2:?--limit needs a number}; wants_number --limit "$limit"; shift 2 ;;
        --folder) parent=${2:?--folder needs a directory}; shift 2 ;;
        --programs) programs=$(realpath "${2:?--programs needs a directory}"); shift 2 ;;
        --json) json=yes; shift ;;
        *) refuse "unknown argument $1; $usage" ;;
    esac
done
scenario_line() { awk -v name="$1" '$1 == name' <<<"$SCENARIOS"; }
for name in $wanted; do
    [ -n "$(scenario_line "$name")" ] || refuse "no scenario $name; there are: $(awk 'NF { printf "%s ", $1 }' <<<"$SCENARIOS")"
done
: "${wanted:=$(awk 'NF { print $1 }' <<<"$SCENARIOS")}"

for tool in ip tc; do
    command -v "$tool" >/dev/null || refuse "$tool is missing; install iproute2 (apt-get install iproute2)"
done
[ -d "$parent" ] || refuse "$parent is no directory; name one with --folder"

tag=shoalcal$$
ip netns add "$tag" 2>/dev/null || refuse "cannot make a network namespace; run it as root, in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN"
folder=$(mktemp -d "$parent/shoal-calibrate-XXXXXX")
pids=()
stop_all() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
}
remove_network() {
    ip netns list | awk -v tag="$tag" 'index($1, tag) == 1 { print $1 }' | while read -r name; do
        ip netns delete "$name" || true
    done
}
clean_up() { stop_all; remove_network; rm -rf "$folder"; }
trap clean_up EXIT
trap 'exit 130' INT TERM

ip -n "$tag" link add probe0 type veth peer name probe1 2>/dev/null || refuse "cannot make a veth pair; run it as root on a kernel with veth"
ip netns exec "$tag" tc qdisc add dev probe0 root tbf rate 1mbit burst 32k latency 50ms 2>/dev/null || refuse "the kernel does not shape links: tc has no tbf here"
has_netem=no
if ip netns exec "$tag" tc qdisc add dev probe1 root netem delay 1ms 2>/dev/null; then has_netem=yes; fi
ip netns delete "$tag"

cd "$(dirname "$0")/.."
if [ -z "$programs" ]; then
    cargo build --release --locked --quiet --bin shoal --bin shoal-simnet
    programs=$PWD/target/release
fi
shoal=$programs/shoal
simnet=$programs/shoal-simnet
for program in "$shoal" "$simnet"; do
    [ -x "$program" ] || fail "$program is missing; leave out --programs to build it"
done

now() { echo "$EPOCHREALTIME"; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.3f", b - a }'; }
number() { grep -o "\"$2\": *[-+0-9.e]*" <<<"$1" | head -1 | grep -o "[-+0-9.e]*\$"; }
median() { sort -g | awk '{ all[NR] = $1 } END { printf "%.3f", (all[int((NR + 1) / 2)] + all[int(NR / 2) + 1]) / 2 }'; }
at_percent() { sort -g | awk -v p="$1" '{ all[NR] = $1 } END { rank = NR * p / 100; r = int(rank); if (r < rank) r++; print all[r] }'; }
busy() { awk '/^cpu / { idle = $5 + $6; for (i = 2; i <= 9; i++) all += $i; printf "%d %d", all - idle, all }' /proc/stat; }

# One link into the bridge: its sender's side shapes what the node sends, the bridge's side what it gets.
add_node() { # number, Mbit/s, latency in ms
    local name=$tag-$1 shaper delay=()
    ip netns add "$name"
    ip -n "$name" link set lo up
    ip -n "$tag-bridge" link add "port$1" type veth peer name eth0 netns "$name"
    ip -n "$tag-bridge" link set "port$1" master bridge0 up
    ip -n "$name" address add "10.77.0.$1/24" dev eth0
    ip -n "$name" link set eth0 up
    shaper=(tbf rate "$2mbit" burst 32k latency 50ms)
    ip netns exec "$tag-bridge" tc qdisc add dev "port$1" root "${shaper[@]}"
    ip netns exec "$name" tc qdisc add dev eth0 root handle 1: "${shaper[@]}"
    if [ "$3" -gt 0 ]; then
        ip netns exec "$name" tc qdisc add dev eth0 parent 1:1 netem delay "$3ms" limit 10000
    fi
}
# As the shaper counts them: each packet with its headers, also of those that the kernel handles in bulk.
sent_bytes() { ip netns exec "$tag-$1" tc -s qdisc show dev eth0 root | awk '$1 == "Sent" { print $2; exit }'; }

fetch() { # number, seeder, build, start: prints "seconds json" when the build is there
    local line
    ip netns exec "$tag-$1" bash -c '
        sleep "$(awk -v a="$EPOCHREALTIME" -v b="$1" "BEGIN { print (b > a) ? b - a : 0 }")"
        exec "${@:2}"' fetch "$4" "$shoal" fetch "$3" --seeder "$2" --out "$folder/host-$1" \
        --listen "10.77.0.$1:0" --keep-serving --json 2>"$folder/host-$1.log" |
        while read -r line; do echo "$(since "$4") $line"; done >"$folder/host-$1.done"
    touch "$folder/host-$1.ended"
}

# Bytes of chunks that hosts got from "seeders" or "peers", discarded ones included.
received() { cat "$folder"/host-*.done | grep -o "\"bytes_from_$1\": *[0-9]*" | awk -F: '{ sum += $2 } END { printf "%d", sum }'; }

# One run on real processes. Prints: p50, last, copies out of the seeder, percent of chunks received in
# vain, bytes on links for each thousand bytes of chunks beyond these, percent of the machine busy.
real_run() { # hosts, Mbit/s of a host, of the seeder, latency
    local hosts=$1 host seeder address start busy_before busy_after sent=0
    remove_network
    rm -rf "$folder"/host-* "$folder/seeder" "$folder/address"
    ip netns add "$tag-bridge"
    ip -n "$tag-bridge" link add bridge0 type bridge
    ip -n "$tag-bridge" link set bridge0 up
    add_node 1 "$3" "$4"
    for ((host = 2; host <= hosts + 1; host++)); do add_node "$host" "$2" "$4"; done

    ip netns exec "$tag-1" "$shoal" seeder --store "$folder/store" --listen 10.77.0.1:7400 \
        --state "$folder/seeder" >"$folder/address" 2>"$folder/seeder.log" &
    pids+=("$!")
    local waited=0
    until [ -s "$folder/address" ]; do
        waited=$((waited + 1))
        if [ "$waited" -gt 200 ]; then cat "$folder/seeder.log" >&2; fail "the seeder did not start"; fi
        sleep 0.1
    done
    address=$(cat "$folder/address")

    start=$(awk -v now="$(now)" 'BEGIN { printf "%.6f", now + 2 }')
    busy_before=$(busy)
    for ((host = 2; host <= hosts + 1; host++)); do
        fetch "$host" "$address" "$build" "$start" &
        pids+=("$!")
    done
    waited=0
    until [ "$(cat "$folder"/host-*.done 2>/dev/null | wc -l)" -eq "$hosts" ]; do
        waited=$((waited + 1))
        for host in "$folder"/host-*.ended; do
            if [ -e "$host" ] && [ ! -s "${host%.ended}.done" ]; then
                tail -n 1 "${host%.ended}.log" >&2
                fail "a host gave up; above is what it said last"
            fi
        done
        if [ "$waited" -gt 3000 ]; then tail -qn 1 "$folder"/host-*.log >&2; fail "not every host completed within five minutes"; fi
        sleep 0.1
    done
    busy_after=$(busy)
    for ((host = 1; host <= hosts + 1; host++)); do sent=$((sent + $(sent_bytes "$host"))); done
    for ((host = 2; host <= hosts + 1; host++)); do
        cmp -s "$folder/data" "$folder/host-$host/data" || fail "the file of host $host is not the one that was published"
    done
    stop_hosts "$hosts"
    local seeder_bytes peer_bytes
    seeder_bytes=$(received seeders) peer_bytes=$(received peers)
    awk -v p50="$(awk '{ print $1 }' "$folder"/host-*.done | at_percent 50)" \
        -v last="$(awk '{ print $1 }' "$folder"/host-*.done | at_percent 100)" \
        -v seeder="$seeder_bytes" -v peers="$peer_bytes" -v build="$bytes" -v sent="$sent" -v hosts="$hosts" \
        -v before="$busy_before" -v after="$busy_after" 'BEGIN {
            split(before, b, " "); split(after, a, " ")
            all = build * hosts
            printf "%s %s %.3f %.1f %.0f %.0f\n", p50, last, seeder / build, ((seeder + peers) / all - 1) * 100, (sent / (seeder + peers) - 1) * 1000, (a[1] - b[1]) / (a[2] - b[2]) * 100
        }'
}

# The processes in the namespaces; the shells that read from them end with them.
stop_hosts() {
    local host pid
    for ((host = 1; host <= $1 + 1; host++)); do
        for pid in $(ip netns pids "$tag-$host"); do kill "$pid" 2>/dev/null || true; done
    done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
}

# Prints: p50, last, copies out of the seeder, percent of chunk bytes sent in vain.
simulated_run() { # hosts, Mbit/s of a host, of the seeder, latency, seed, headers
    local answer latency=0.1ms
    if [ "$4" -gt 0 ]; then latency=$4ms; fi
    answer=$("$simnet" swarm --hosts "$1" --host-rate "$2Mbit" --seeder-rate "$3Mbit" --headers "$6" \
        --turn 64KiB --latency "$latency" --chunk-lengths "$folder/lengths" --seed "$5" --json)
    echo "$(number "$answer" p50_s) $(number "$answer" last_s) $(number "$answer" seeder_copies) $(number "$answer" wasted_share | awk '{ print $1 * 100 }')"
}

column() { awk -v c="$2" '{ print $c }' <<<"$1" | median; }
apart() { awk -v real="$1" -v sim="$2" 'BEGIN { printf "%+.1f", (sim - real) / real * 100 }'; }

status=0
if [ "$json" = no ]; then
    echo "machine: $(nproc) cores, $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo), $(uname -r); medians of $runs runs and $seeds seeds"
    printf '%-12s %5s %9s %8s %6s  %-22s %-24s %-15s %-12s %7s %5s\n' scenario hosts Mbit/s MiB chunks "p50 s real / sim" "last s real / sim" "copies real/sim" "waste % r/s" headers cpu
fi
made=""
for name in $wanted; do
    read -r _ hosts host_rate seeder_rate mib latency <<<"$(scenario_line "$name")"
    if [ "$latency" -gt 0 ] && [ "$has_netem" = no ]; then
        echo "calibrate: $name is left out: this kernel has no netem, which delays packets" >&2
        continue
    fi
    bytes=$((mib << 20))
    if [ "$made" != "$mib" ]; then
        rm -rf "$folder/store"
        head -c "$bytes" /dev/urandom >"$folder/data"
        build=$("$shoal" publish "$folder/data" --app calibration --store "$folder/store" --chunk-lengths-to "$folder/lengths" 2>"$folder/publish.log") || { cat "$folder/publish.log" >&2; exit 1; }
        made=$mib
    fi
    real="" simulated=""
    for ((run = 1; run <= runs; run++)); do
        # Not in a command substitution: what it starts has to be known here, to be ended.
        real_run "$hosts" "$host_rate" "$seeder_rate" "$latency" >"$folder/run"
        real+="$(cat "$folder/run")"$'\n'
    done
    real=${real%$'\n'}
    headers=$(column "$real" 5 | awk '{ printf "%.0f", $1 }')
    for ((seed = 1; seed <= seeds; seed++)); do
        simulated+="$(simulated_run "$hosts" "$host_rate" "$seeder_rate" "$latency" "$seed" "$headers")"$'\n'
    done
    simulated=${simulated%$'\n'}
    p50_real=$(column "$real" 1) last_real=$(column "$real" 2) copies_real=$(column "$real" 3)
    waste_real=$(column "$real" 4) cpu=$(column "$real" 6)
    p50_sim=$(column "$simulated" 1) last_sim=$(column "$simulated" 2) copies_sim=$(column "$simulated" 3) waste_sim=$(column "$simulated" 4)
    p50_apart=$(apart "$p50_real" "$p50_sim") last_apart=$(apart "$last_real" "$last_sim")
    chunks=$(wc -l <"$folder/lengths")
    if [ "$json" = yes ]; then
        printf '{"scenario":"%s","hosts":%d,"host_mbit":%d,"seeder_mbit":%d,"build_mib":%d,"chunks":%d,"latency_ms":%d,"p50_real_s":%s,"p50_simulated_s":%s,"p50_apart_percent":%s,"last_real_s":%s,"last_simulated_s":%s,"last_apart_percent":%s,"seeder_copies_real":%s,"seeder_copies_simulated":%s,"wasted_real_percent":%s,"wasted_simulated_percent":%s,"headers_permille":%.0f,"cpu_percent":%.0f}\n' \
            "$name" "$hosts" "$host_rate" "$seeder_rate" "$mib" "$chunks" "$latency" \
            "$p50_real" "$p50_sim" "${p50_apart#+}" "$last_real" "$last_sim" "${last_apart#+}" "$copies_real" "$copies_sim" "$waste_real" "$waste_sim" "$headers" "$cpu"
    else
        printf '%-12s %5d %9s %8d %6d  %6.2f / %5.2f %+6s %%  %6.2f / %5.2f %+6s %%  %6.2f / %-6.2f %5.1f / %-4.1f %7.0f %4.0f%%\n' \
            "$name" "$hosts" "$host_rate/$seeder_rate" "$mib" "$chunks" "$p50_real" "$p50_sim" "$p50_apart" "$last_real" "$last_sim" "$last_apart" "$copies_real" "$copies_sim" "$waste_real" "$waste_sim" "$headers" "$cpu"
    fi
    if awk -v cpu="$cpu" 'BEGIN { exit !(cpu > 90) }'; then
        echo "calibrate: $name kept the machine busy; these times are the processor's, not the links'" >&2
    fi
    if awk -v a="$p50_apart" -v b="$last_apart" -v limit="$limit" 'BEGIN { exit !(a > limit || -a > limit || b > limit || -b > limit) }'; then
        echo "calibrate: $name is more than $limit % apart" >&2
        status=1
    fi
done
exit "$status"
