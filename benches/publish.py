#!/usr/bin/env python3
"""How fast a build is published from the page cache, on one core and on two.

  benches/publish.py [--gigabytes N] [--runs N] [--folder DIR] [--programs DIR] [--against DIR] [--json]

Two builds of the same size, a file of random bytes and a tree of files of all sizes, each verified
(read, cut and hashed; no copy) and published (the same and the store's copy written), with the process
held to one core and to two. `pass` is until every byte is read, hashed and written, `sync` from then
until the copy is on disk and in the store. Medians of the runs, 10^9 bytes in a GB. `peak` is VmHWM.

Before each publishing a file is written and removed, so that the copy goes to memory that this machine
has: on a virtual machine, memory used for the first time is written several times slower, because the
host has to provide it. `bare copy` is the same bytes read and written on one core without any other work.
Exits with 1 if a process needs more memory than the limit.

With --against DIR, where the program `publish_speed` of another state lies, the two publish in turn, A B B A,
on all cores, after a first pair that does not count. `ratio` is the median over the pairs of this state's
time over the other's.
"""
import argparse, json, os, random, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

RSS_MIB_MAX = 150
BLOCK = 256 << 10


def make_file(path, size):
    with open(path, "wb") as file:
        for start in range(0, size, BLOCK):
            file.write(os.urandom(min(BLOCK, size - start)))


def make_tree(path, size):
    """Files of a kilobyte to some megabytes, as many of each order of magnitude, in directories of 50."""
    prng, number = random.Random(1), 0
    while size > 0:
        directory = path / f"{number // 50}"
        directory.mkdir(parents=True, exist_ok=True)
        length = min(size, int(2 ** prng.uniform(10, 23)))
        (directory / f"{number}").write_bytes(prng.randbytes(length))
        size, number = size - length, number + 1
    return number


def read_all(path):
    """Brings a file or a tree into the page cache."""
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    for file in files:
        with open(file, "rb") as opened:
            while opened.read(4 << 20):
                pass


def warm_memory(folder, size):
    """Leaves free memory behind that the machine has."""
    with open(folder / "warm", "wb") as file:
        block = bytes(BLOCK)
        for _ in range(0, size * 5 // 4, BLOCK):
            file.write(block)
    (folder / "warm").unlink()


def bare_copy(source, target, size):
    """Seconds to read and write the bytes, and no more."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    buffer = bytearray(BLOCK)
    with open(source, "rb", buffering=0) as reader, open(target, "wb", buffering=0) as writer:
        os.posix_fallocate(writer.fileno(), 0, size)
        started = time.monotonic()
        while count := reader.readinto(buffer):
            writer.write(memoryview(buffer)[:count])
        seconds = time.monotonic() - started
    target.unlink()
    return seconds


def main():
    parser = argparse.ArgumentParser(prog="benches/publish.py", allow_abbrev=False)
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", default=os.environ.get("TMPDIR", "/tmp"))
    parser.add_argument("--programs", metavar="DIR", help="where the program publish_speed is")
    parser.add_argument("--against", metavar="DIR", help="where the publish_speed of another state is")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.programs:
        root = Path(__file__).resolve().parent.parent
        build = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "benches", "--bin", "publish_speed"]
        subprocess.run(build, cwd=root, check=True)
        arguments.programs = root / "target/release"
    folder = Path(tempfile.mkdtemp(prefix="shoal-publish-", dir=arguments.folder))
    try:
        sys.exit(0 if measure(folder, arguments) else 1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder, arguments):
    size = int(arguments.gigabytes * 1e9)
    make_file(folder / "file", size)
    files = make_tree(folder / "tree", size)
    os.sync()
    cores = sorted(os.sched_getaffinity(0))
    if not arguments.json:
        kind = subprocess.run(["df", "--output=fstype", folder], capture_output=True, text=True).stdout.split()[-1]
        model = next(line.split(": ")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
        print(f"machine: {len(cores)} cores, {model}, {os.uname().release}, {kind}; {size / 1e9:g} GB, a file and a tree of {files} files; medians of {arguments.runs}")
    if not arguments.json and not arguments.against:
        print(f"{'build':<6} {'work':<8} {'cores':>5} {'pass GB/s':>10} {'times one core':>15} {'sync s':>7} {'pass + sync GB/s':>17} {'peak MiB':>9}")
    if arguments.against:
        return compare(folder, arguments, cores)
    report(arguments, copy_speed(folder, size, arguments.runs))
    all_right = True
    for build in ("file", "tree"):
        for work in ("verify", "publish"):
            alone = None
            for count in (1, 2):
                if count > len(cores):
                    continue
                outcomes = [once(folder, build, work, cores[:count], arguments) for _ in range(arguments.runs)]
                median = lambda name: statistics.median(outcome[name] for outcome in outcomes)
                seconds, sync = median("pass_seconds"), median("sync_seconds")
                alone = alone or seconds
                peak = max(outcome["peak_rss_kib"] for outcome in outcomes) / 1024
                all_right = all_right and peak <= RSS_MIB_MAX
                report(arguments, dict(
                    build=build, work=work, cores=count, pass_gb_s=round(size / seconds / 1e9, 2),
                    times_one_core=round(alone / seconds, 2), sync_s=round(sync, 2),
                    all_gb_s=round(size / (seconds + sync) / 1e9, 2), peak_mib=round(peak, 1),
                ))
    return all_right


def compare(folder, arguments, cores):
    for build in ("file", "tree"):
        pairs = []
        for turn in range(arguments.runs + 1):
            both = [("this", arguments.programs), ("other", arguments.against)]
            pair = {}
            for name, programs in both if turn % 2 else reversed(both):
                pair[name] = once(folder, build, "publish", cores, argparse.Namespace(**{**vars(arguments), "programs": programs}))
            pairs.append(pair)
        row = dict(build=build)
        for part in ("pass_seconds", "sync_seconds"):
            for name in ("this", "other"):
                row[f"{name}_{part}"] = round(statistics.median(pair[name][part] for pair in pairs[1:]), 3)
        whole = lambda outcome: outcome["pass_seconds"] + outcome["sync_seconds"]
        row["ratio"] = round(statistics.median(whole(pair["this"]) / whole(pair["other"]) for pair in pairs[1:]), 3)
        print(json.dumps(row), flush=True)
    return True


def copy_speed(folder, size, runs):
    affinity, seconds = os.sched_getaffinity(0), []
    for _ in range(runs):
        read_all(folder / "file")
        warm_memory(folder, size)
        seconds.append(bare_copy(folder / "file", folder / "copy", size))
        os.sched_setaffinity(0, affinity)
    speed = round(size / statistics.median(seconds) / 1e9, 2)
    return dict(build="file", work="bare copy", cores=1, pass_gb_s=speed)


def once(folder, build, work, cores, arguments):
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    read_all(folder / build)
    if work == "publish":
        warm_memory(folder, int(arguments.gigabytes * 1e9))
    program = Path(arguments.programs) / "publish_speed"
    command = ["taskset", "-c", ",".join(map(str, cores)), program, work, folder / build]
    if work == "publish":
        command.append(store)
    outcome = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    shutil.rmtree(store, ignore_errors=True)
    return outcome


def report(arguments, row):
    if arguments.json:
        print(json.dumps(row), flush=True)
        return
    def cell(name, form):
        return form.format(row.get(name, ""))
    print(
        f"{row['build']:<6} {row['work']:<9} {row['cores']:>4} {row['pass_gb_s']:>10.2f} {cell('times_one_core', '{:>15}')} "
        f"{cell('sync_s', '{:>7}')} {cell('all_gb_s', '{:>17}')} {cell('peak_mib', '{:>9}')}", flush=True,
    )


main()
