#!/usr/bin/env python3
"""One host of a swarm is in trouble: does it get through, and are the others slowed?

Real processes, a seeder and hosts, each in a network namespace behind a shaped link. For each fault
the same swarm runs with and without it; the times of all other hosts are compared, medians over the
runs. Then the trouble ends where it can end, and the faulted host has to complete as well.

  benches/faults.py [--fault NAME]... [--runs N] [--limit PERCENT] [--folder DIR] [--programs DIR] [--json]

Needs root, ip and tc (iproute2), nft (nftables, for loss), gcc (for slow-disk). Nothing outside of the
namespaces that it makes is changed; they and all files are removed however it ends. Exits with 1 if a
host does not do what it should or the others are slowed by more than the limit.
"""
import argparse, json, os, shutil, signal, statistics, subprocess, sys, tempfile, time
from pathlib import Path

# What ails the host, and the swarm it happens in.
SWARMS = {
    "links": dict(hosts=8, mbit=100, mib=128),
    # The same with packets of the size of a wire, not those that kernels hand on in bulk: a lost one
    # would be forty.
    "packets": dict(hosts=8, mbit=100, mib=128, segments=1),
    # Links faster than the disk, and few enough hosts that the machine is not what limits them.
    "disks": dict(hosts=4, mbit=300, mib=160),
}
FAULTS = {
    "slow-peer": ("links", "1 % of the others' rate, both ways"),
    "stopped": ("links", "SIGSTOP while it receives and sends; SIGCONT after the others have completed"),
    "killed": ("links", "SIGKILL while it receives and sends; started again at once"),
    "loss": ("packets", "1 % of its packets lost, both ways"),
    "full-disk": ("links", "a disk of a quarter of the build's size"),
    "disk-filled": ("links", "writes fail with ENOSPC from the middle of the build on"),
    "slow-disk": ("disks", "a disk that writes 20 MB/s"),
}
DISK_RATE = 20_000_000
RSS_MIB_MAX = 150
GIVE_UP_SECONDS = 180

# Preloaded into the faulted host: what its disk does to writes. The C library is what the standard
# library of Rust calls. A write returns when such a disk would have it, one after the other, so nothing
# is hidden in the page cache.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static pthread_mutex_t disk = PTHREAD_MUTEX_INITIALIZER;
static long long written;
static long long setting(const char *name) { const char *v = getenv(name); return v ? atoll(v) : 0; }
static int refused(size_t count) {
    long long rate = setting("SHIM_RATE"), size = setting("SHIM_SIZE");
    pthread_mutex_lock(&disk);
    written += count;
    int full = size && written > size;
    if (rate && !full) {
        long long ns = count * 1000000000LL / rate;
        struct timespec t = { ns / 1000000000, ns % 1000000000 };
        nanosleep(&t, 0);
    }
    pthread_mutex_unlock(&disk);
    if (full) errno = ENOSPC;
    return full;
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    if (!next) next = dlsym(RTLD_NEXT, "pwrite64");
    return refused(count) ? -1 : next(fd, bytes, count, at);
}
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t count, unsigned flags) {
    static ssize_t (*next)(int, off64_t *, int, off64_t *, size_t, unsigned);
    if (!next) next = dlsym(RTLD_NEXT, "copy_file_range");
    return refused(count) ? -1 : next(from, a, to, b, count, flags);
}
"""


def refuse(message):
    print(f"faults: {message}", file=sys.stderr)
    sys.exit(2)


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, capture_output=True, **options).stdout


class Swarm:
    """A seeder, which is number 1, and hosts from 2 on, of which number 2 is the one in trouble."""

    def __init__(self, bench, shape, fault):
        self.bench, self.shape, self.fault = bench, shape, fault
        self.numbers = range(2, shape["hosts"] + 2)
        self.processes, self.times, self.ended, self.reports = {}, {}, {}, {}
        self.peaks = {}
        self.folder = Path(tempfile.mkdtemp(dir=bench.folder))

    def netns(self, number):
        return f"{self.bench.tag}-{number}"

    def shape_link(self, number, mbit, verb="add"):
        tbf = ["root", "tbf", "rate", f"{mbit}mbit", "burst", "64k", "latency", "50ms"]
        run("tc", "-n", self.netns("bridge"), "qdisc", verb, "dev", f"port{number}", *tbf)
        run("tc", "-n", self.netns(number), "qdisc", verb, "dev", "eth0", *tbf)

    def make_network(self):
        bridge = self.netns("bridge")
        run("ip", "netns", "add", bridge)
        run("ip", "-n", bridge, "link", "add", "bridge0", "type", "bridge")
        run("ip", "-n", bridge, "link", "set", "bridge0", "up")
        for number in [1, *self.numbers]:
            name = self.netns(number)
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", bridge, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", bridge, "link", "set", f"port{number}", "master", "bridge0", "up")
            run("ip", "-n", name, "address", "add", f"10.78.0.{number}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            if "segments" in self.shape:
                segments = ["gso_max_segs", str(self.shape["segments"])]
                run("ip", "-n", name, "link", "set", "eth0", *segments)
                run("ip", "-n", bridge, "link", "set", f"port{number}", *segments)
            self.shape_link(number, self.shape["mbit"])

    def start(self, number, *command, **options):
        """Starts a program in a namespace; its output goes to files."""
        out = open(self.folder / f"{number}.out", "ab")
        log = open(self.folder / f"{number}.log", "ab")
        return subprocess.Popen(
            ["ip", "netns", "exec", self.netns(number), *map(str, command)],
            stdout=out, stderr=log, stdin=subprocess.DEVNULL, **options,
        )

    def out(self, number):
        return self.folder / f"host-{number}"

    def start_host(self, number):
        environment = dict(os.environ)
        if number == 2 and self.fault == "slow-disk":
            environment |= {"LD_PRELOAD": str(self.bench.shim), "SHIM_RATE": str(DISK_RATE)}
        if number == 2 and self.fault == "disk-filled" and 2 not in self.ended:
            environment |= {"LD_PRELOAD": str(self.bench.shim), "SHIM_SIZE": str(self.shape["mib"] << 19)}
        self.processes[number] = self.start(
            number, self.bench.shoal, "fetch", self.bench.builds[self.shape["mib"]], "--seeder", self.seeder,
            "--out", self.out(number), "--listen", f"10.78.0.{number}:0", "--keep-serving", "--json",
            env=environment,
        )

    def run(self):
        self.make_network()
        seeder = self.start(
            1, self.bench.shoal, "seeder", "--store", self.bench.store(self.shape), "--listen", "10.78.0.1:7400",
            "--state", self.folder / "seeder",
        )
        self.processes[1] = seeder
        self.wait("the seeder", lambda: (self.folder / "1.out").stat().st_size > 0)
        self.seeder = (self.folder / "1.out").read_text().strip()
        if self.fault == "slow-peer":
            self.shape_link(2, self.shape["mbit"] / 100, "change")
        if self.fault == "loss":
            rules = "add table ip loss\n"
            for hook in ("input", "output"):
                rules += f"add chain ip loss {hook} {{ type filter hook {hook} priority 0; }}\n"
                rules += f"add rule ip loss {hook} numgen random mod 100 < 1 counter drop\n"
            run("ip", "netns", "exec", self.netns(2), "nft", "-f", "-", input=rules)
        if self.fault == "full-disk":
            self.out(2).mkdir()
            run("mount", "-t", "tmpfs", "-o", f"size={self.shape['mib'] // 4}m", "none", self.out(2))
        self.started = time.monotonic()
        for number in self.numbers:
            self.start_host(number)
        others = [number for number in self.numbers if number != 2]
        self.is_struck = self.fault not in ("stopped", "killed")
        self.wait("the other hosts", lambda: self.look() or all(number in self.times for number in others))
        at_others = dict(self.times)
        if self.fault == "stopped":
            self.processes[2].send_signal(signal.SIGCONT)
        if self.fault == "slow-peer":
            self.shape_link(2, self.shape["mbit"], "change")
        self.wait("the faulted host", lambda: self.look() or 2 in self.times or 2 in self.ended)
        return self.outcome(others, at_others)

    def look(self):
        """Notes who has completed or ended, and strikes when it is time to."""
        if not self.is_struck and self.has_moved(2):
            self.is_struck = True
            if self.fault == "stopped":
                self.processes[2].send_signal(signal.SIGSTOP)
            else:
                self.processes[2].kill()
                self.processes[2].wait()
                self.start_host(2)
        for number in self.numbers:
            if number not in self.times and number not in self.ended:
                text = (self.folder / f"{number}.out").read_text()
                code = self.processes[number].poll()
                if code is None and text.endswith("\n"):
                    self.times[number] = time.monotonic() - self.started
                    self.reports[number] = json.loads(text.splitlines()[-1])
                    self.peaks[number] = self.peak_mib(number)
                elif code is not None:
                    self.ended[number] = code
                    if number != 2:
                        self.fail(f"host {number} ended with {code}")

    def has_moved(self, number):
        """Whether the host has received half of the build and sends."""
        def count(which):
            path = f"/sys/class/net/eth0/statistics/{which}_bytes"
            return int(run("ip", "netns", "exec", self.netns(number), "cat", path))
        return count("rx") > self.shape["mib"] << 20 >> 1 and count("tx") > 2 << 20

    def peak_mib(self, number):
        status = Path(f"/proc/{self.processes[number].pid}/status").read_text()
        return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def outcome(self, others, at_others):
        for number in self.times:
            if subprocess.run(["cmp", "-s", self.bench.data(self.shape), self.out(number) / "data"]).returncode:
                self.fail(f"the file of host {number} is not the one that was published")
        error = (self.folder / "2.log").read_text().strip().splitlines()
        return dict(
            mean=statistics.mean(at_others[number] for number in others),
            last=max(at_others[number] for number in others),
            faulted_s=self.times.get(2), exit=self.ended.get(2), error=error[-1] if error else "",
            peak=self.peaks.get(2, 0), resumed=self.reports.get(2, {}).get("bytes_resumed", 0),
        )

    def wait(self, what, is_done):
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while not is_done():
            if time.monotonic() > deadline:
                self.fail(f"gave up waiting for {what}")
            time.sleep(0.02)

    def fail(self, message):
        for log in sorted(self.folder.glob("*.log")):
            for line in log.read_text().strip().splitlines()[-2:]:
                print(f"faults: {log.name}: {line}", file=sys.stderr)
        print(f"faults: {self.fault or 'without a fault'}: {message}", file=sys.stderr)
        sys.exit(1)

    def close(self):
        for process in self.processes.values():
            process.kill()
            process.wait()
        subprocess.run(["umount", self.out(2)], stderr=subprocess.DEVNULL)
        self.bench.remove_network()
        shutil.rmtree(self.folder, ignore_errors=True)


class Bench:
    def __init__(self, arguments):
        self.tag = f"shoalfault{os.getpid()}"
        self.folder = Path(tempfile.mkdtemp(prefix="shoal-faults-", dir=arguments.folder))
        self.shoal = Path(arguments.programs) / "shoal"
        self.builds = {}

    def data(self, shape):
        return self.folder / f"{shape['mib']}" / "data"

    def store(self, shape):
        return self.folder / f"store-{shape['mib']}"

    def publish(self, shape):
        if shape["mib"] in self.builds:
            return
        self.data(shape).parent.mkdir()
        self.data(shape).write_bytes(os.urandom(shape["mib"] << 20))
        published = run(self.shoal, "publish", self.data(shape), "--app", "faults", "--store", self.store(shape))
        self.builds[shape["mib"]] = published.strip()

    def compile_shim(self):
        self.shim = self.folder / "shim.so"
        (self.folder / "shim.c").write_text(SHIM)
        run("gcc", "-O2", "-shared", "-fPIC", "-o", self.shim, self.folder / "shim.c", "-ldl", "-lpthread")

    def remove_network(self):
        for line in run("ip", "netns", "list").splitlines():
            name = line.split()[0]
            if name.startswith(self.tag + "-"):
                subprocess.run(["ip", "netns", "delete", name])

    def swarm(self, shape, fault):
        swarm = Swarm(self, shape, fault)
        try:
            return swarm.run()
        finally:
            swarm.close()

    def close(self):
        self.remove_network()
        shutil.rmtree(self.folder, ignore_errors=True)


def verdict(fault, outcomes):
    """What the faulted host did, and whether that is what it should."""
    seconds = [outcome["faulted_s"] for outcome in outcomes]
    if fault in ("full-disk", "disk-filled"):
        is_right = all(outcome["exit"] == 1 and outcome["error"] for outcome in outcomes)
        return is_right, f"exit {outcomes[0]['exit']}: {outcomes[0]['error']}"
    if None in seconds:
        return False, f"exit {[outcome['exit'] for outcome in outcomes]}: {outcomes[0]['error']}"
    said = f"complete after {statistics.median(seconds):.1f} s"
    if fault == "slow-disk":
        peak = max(outcome["peak"] for outcome in outcomes)
        return peak <= RSS_MIB_MAX, f"{said}, peak RSS {peak} MiB"
    if fault == "killed":
        said += f", {min(outcome['resumed'] for outcome in outcomes) >> 20} MiB resumed"
    return True, said


def main():
    parser = argparse.ArgumentParser(prog="benches/faults.py", allow_abbrev=False)
    parser.add_argument("--fault", action="append", choices=FAULTS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=float, default=10, metavar="PERCENT")
    parser.add_argument("--folder", default=os.environ.get("TMPDIR", "/tmp"))
    parser.add_argument("--programs", metavar="DIR")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    faults = arguments.fault or list(FAULTS)
    if os.geteuid() != 0:
        refuse("needs root, to make network namespaces")
    for tool, why in [("ip", "iproute2"), ("tc", "iproute2"), ("nft", "nftables"), ("gcc", "gcc")]:
        if not shutil.which(tool):
            refuse(f"{tool} is missing; install {why}")
    if not arguments.programs:
        root = Path(__file__).resolve().parent.parent
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--bin", "shoal"], cwd=root, check=True)
        arguments.programs = root / "target/release"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    bench = Bench(arguments)
    try:
        sys.exit(0 if compare(bench, faults, arguments) else 1)
    finally:
        bench.close()


def compare(bench, faults, arguments):
    bench.compile_shim()
    baselines, all_right = {}, True
    if not arguments.json:
        print(f"machine: {os.cpu_count()} cores, {os.uname().release}; medians of {arguments.runs} runs")
        for name, shape in SWARMS.items():
            in_bulk = " in single packets" if "segments" in shape else ""
            print(f"{name}: {shape['hosts']} hosts and a seeder at {shape['mbit']} Mbit/s{in_bulk}, {shape['mib']} MiB")
        print(f"{'fault':<12} {'others, mean s':>16} {'last s':>14} {'slowed by':>16}  the faulted host")
    for fault in faults:
        shape = SWARMS[FAULTS[fault][0]]
        bench.publish(shape)
        key = FAULTS[fault][0]
        if key not in baselines:
            baselines[key] = [bench.swarm(shape, None) for _ in range(arguments.runs)]
        outcomes = [bench.swarm(shape, fault) for _ in range(arguments.runs)]
        def median(which, of):
            return statistics.median(outcome[which] for outcome in of)
        times = {which: (median(which, baselines[key]), median(which, outcomes)) for which in ("mean", "last")}
        slowed = {which: (after / before - 1) * 100 for which, (before, after) in times.items()}
        is_right, said = verdict(fault, outcomes)
        is_fair = max(slowed.values()) <= arguments.limit
        all_right = all_right and is_right and is_fair
        if arguments.json:
            print(json.dumps(dict(
                fault=fault, means=FAULTS[fault][1], swarm=shape, runs=arguments.runs,
                mean_without_s=round(times["mean"][0], 3), mean_s=round(times["mean"][1], 3),
                last_without_s=round(times["last"][0], 3), last_s=round(times["last"][1], 3),
                mean_slowed_percent=round(slowed["mean"], 1), last_slowed_percent=round(slowed["last"], 1),
                faulted=said, is_right=is_right and is_fair,
            )), flush=True)
        else:
            mark = "" if is_fair and is_right else "  <- NOT AS IT SHOULD"
            print(
                f"{fault:<12} {times['mean'][0]:7.2f} / {times['mean'][1]:<6.2f} {times['last'][0]:6.2f} / {times['last'][1]:<6.2f}"
                f" {slowed['mean']:+6.1f} /{slowed['last']:+6.1f} %  {said}{mark}", flush=True,
            )
    return all_right


main()
