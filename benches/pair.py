#!/usr/bin/env python3
"""One seeder and one host on loopback: how fast, at what cost, beside what else could do it.

    benches/pair.py [--gigabytes N] [--transport quic|tcp|auto|all] [--runs N] [--only NAME,...]
                 [--folder DIR] [--json FILE]

A file of random bytes goes from one process to another, from page cache to verified file: with Shoal,
with the bare pipeline (same cipher, same file work, no protocol; benches/src), and with aria2,
libtorrent, curl and rsync where they are installed. Runs are interleaved, figures are medians.

`transfer` ends when the last chunk is verified and written, `complete` when the build was read
back, synced and renamed; tools that do nothing of that have one figure for both. CPU is user plus system
time of both ends. What came is compared byte for byte after each run, outside of the clock.

Exit code 1 if a byte is wrong or Shoal or the bare pipeline fails. Needs twice the size on disk.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys

from contenders import ETHERNET, Aria2, Bare, Curl, Libtorrent, Rsync, Scene, Shoal, Tracker
from measure import ROOT, Failed, Process, in_words, machine, median, run, table, work_folder

BLOCK = 1 << 20


def main():
    args = arguments()
    try:
        if not args.no_build:
            run(["cargo", "build", "--release", "--locked", "--quiet", "-p", "cli", "-p", "benches", "--bins"], cwd=ROOT)
        folder = work_folder(args.folder, args.bytes * 2 + args.bytes // 8, "pair")
    except Failed as error:
        sys.exit(f"pair: {error}")
    try:
        return measure(args, folder)
    except Failed as error:
        print(f"pair: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        Process.kill_all()
        shutil.rmtree(folder, ignore_errors=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4, metavar="N", help="10^9 bytes; default 4")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--transport", choices=["quic", "tcp", "auto", "all"], default="all",
                        help="Shoal's link; all: quic and tcp, beside each other")
    parser.add_argument("--only", default="", metavar="NAMES", help="such as shoal,bare")
    parser.add_argument("--folder", default=os.environ.get("TMPDIR", "/tmp"), metavar="DIR",
                        help="where the files go; /dev/shm leaves the disk out of it")
    parser.add_argument("--json", metavar="FILE", help="append a line per run and medians to this file; - is standard output")
    parser.add_argument("--mtu", type=int, default=6500, metavar="BYTES",
                        help="largest UDP payload of the bare QUIC; default 6500, as much as a node finds on loopback")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target" / "release", metavar="DIR",
                        help="where shoal and bare-pipeline are")
    parser.add_argument("--no-build", action="store_true", help="take the executables as they are")
    args = parser.parse_args()
    args.bytes = int(args.gigabytes * 1e9)
    if args.bytes <= 0 or args.runs <= 0:
        parser.error("--gigabytes and --runs are above 0")
    return args


def measure(args, folder):
    description = machine(folder)
    sink = None
    if args.json:
        sink = sys.stdout if args.json == "-" else open(args.json, "a")
    human = sys.stderr if args.json == "-" else sys.stdout
    print(in_words(description), file=human, flush=True)
    scene = prepare(args, folder)
    chosen = []
    for contender in contenders(args, scene):
        missing = contender.why_not(scene)
        if missing:
            print(f"{contender.name}: left out, {missing}", file=human)
            emit(sink, {"bench": "pair", "contender": contender.name, "skipped": missing})
        else:
            chosen.append(contender)
    results = {contender.name: [] for contender in chosen}
    status = 0
    for number in range(args.runs):
        for contender in chosen:
            try:
                shutil.rmtree(folder / "out", ignore_errors=True)
                scene.warm_memory()
                pair = contender.go(scene)
                if not is_same(scene.source, pair.out):
                    raise Failed("the bytes differ")
            except Failed as error:
                print(f"{contender.name}: {error}", file=sys.stderr, flush=True)
                emit(sink, {"bench": "pair", "contender": contender.name, "failed": str(error)})
                status = 1
                continue
            results[contender.name].append(pair.result)
            print(f"run {number + 1}: {contender.name}: {in_short(pair.result, args.bytes)}", file=human, flush=True)
            emit(sink, {"bench": "pair", "contender": contender.name, "run": number + 1,
                        "bytes": args.bytes, **pair.result, "machine": description})
            shutil.rmtree(folder / "out", ignore_errors=True)
    conclude(args, chosen, results, human, sink, description)
    return status


def contenders(args, scene):
    transports = ["quic", "tcp"] if args.transport == "all" else [args.transport]
    tracker = Tracker()
    every = [Shoal(transport) for transport in transports]
    every += [Bare("quic", args.mtu), Bare("quic", ETHERNET), Bare("tcp")]
    every += [Aria2(tracker), Libtorrent(), Curl(), Rsync()]
    only = [name for name in args.only.split(",") if name]
    every = [one for one in every if not only or any(one.name.startswith(name) for name in only)]
    if any(getattr(one, "needs_torrent", False) and not one.why_not(scene) for one in every):
        scene.make_torrent(tracker.url)
    return every


def prepare(args, folder):
    """A store with one build; the file in it is the source for everybody, so that it is there once."""
    scene = Scene(folder, args.bin / "shoal", args.bin / "bare-pipeline")
    data = folder / "data"
    with open(data, "wb") as file:
        left = args.bytes
        while left:
            left -= file.write(os.urandom(min(left, BLOCK)))
    scene.build = run([scene.shoal, "publish", data, "--app", "pair", "--store", scene.store]).strip()
    data.unlink()
    scene.source = scene.store / "builds" / scene.build / "data"
    os.sync()
    return scene


def is_same(left, right):
    if not right.is_file() or left.stat().st_size != right.stat().st_size:
        return False
    with open(left, "rb") as a, open(right, "rb") as b:
        while block := a.read(BLOCK):
            if block != b.read(BLOCK):
                return False
    return True


def emit(sink, record):
    if sink:
        print(json.dumps(record), file=sink, flush=True)


def in_short(result, size):
    return "{:.0f} MB/s transfer, {:.0f} complete, {:.2f} CPU-s/GB ({:.2f} complete), peak {:.0f}/{:.0f} MiB".format(
        size / 1e6 / result["transfer_seconds"], size / 1e6 / result["complete_seconds"],
        result["transfer_cpu"] / size * 1e9, result["complete_cpu"] / size * 1e9,
        result["peak_mib_server"], result["peak_mib_client"])


def conclude(args, chosen, results, human, sink, description):
    gigabytes = args.bytes / 1e9
    rows = []
    for contender in chosen:
        runs = results[contender.name]
        if not runs:
            rows.append([contender.name] + ["failed"] * 8 + [contender.note])
            continue
        medians = {key: median([one[key] for one in runs]) for key in runs[0] if key != "seconds_by_phase"}
        emit(sink, {"bench": "pair", "contender": contender.name, "median_of": len(runs), "bytes": args.bytes,
                    **medians, "machine": description})
        rows.append([
            contender.name,
            f"{1000 * gigabytes / medians['transfer_seconds']:.0f}",
            f"{1000 * gigabytes / medians['complete_seconds']:.0f}",
            f"{medians['transfer_cpu'] / gigabytes:.2f}",
            f"{medians['transfer_cpu_server'] / gigabytes:.2f}",
            f"{medians['transfer_cpu_client'] / gigabytes:.2f}",
            f"{medians['complete_cpu'] / gigabytes:.2f}",
            f"{medians['peak_mib_server']:.0f}",
            f"{medians['peak_mib_client']:.0f}",
            contender.note,
        ])
    head = ["", "MB/s", "complete", "CPU-s/GB", "sender", "receiver", "complete", "MiB", "MiB", "what it does"]
    print(f"\nmedians of {args.runs}, {gigabytes:g} GB; MB/s and CPU-s/GB of the transfer and of the complete run, "
          "peak MiB of sender and receiver", file=human)
    print(table(head, rows), file=human)


if __name__ == "__main__":
    sys.exit(main())
