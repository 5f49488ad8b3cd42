#!/usr/bin/env python3
"""Memory of a host and of a seeder at line rate with many neighbours, and over many downloads.

  benches/memory.py [--gigabytes N] [--neighbours N] [--downloads N] [--folder DIR] [--programs DIR] [--json]

Part one: a seeder, neighbours that all hold the build (nodes of one process that serve one copy of its
files), and a host that downloads it from all of them over loopback and goes on serving. The peak is VmHWM
of the seeder and of the host. `--neighbours 5 --gigabytes 1 --downloads 20` is a short form.
Part two: one process downloads and removes a build of 32 MiB again and again; the memory after each
download is sampled, and growth is the slope over the samples after the first fifth, times their number.
Exits with 1 if a peak is over 150 MiB or the growth over 5 MiB for 100 downloads.
"""
import argparse, json, os, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path

RSS_MIB_MAX = 150
GROWTH_MIB_MAX = 5
GIVE_UP_SECONDS = 1800


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.folder = Path(tempfile.mkdtemp(prefix="shoal-memory-", dir=arguments.folder))
        self.shoal = Path(arguments.programs) / "shoal"
        self.repeat = Path(arguments.programs) / "fetch_repeatedly"
        self.processes, self.all_right = [], True

    def start(self, name, *command):
        out, log = open(self.folder / f"{name}.out", "wb"), open(self.folder / f"{name}.log", "wb")
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=log, stdin=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def line_of(self, name, process):
        """The first line that a program prints."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while not (text := (self.folder / f"{name}.out").read_text()).endswith("\n"):
            if process.poll() is not None or time.monotonic() > deadline:
                self.fail(f"{name}: {(self.folder / f'{name}.log').read_text().strip()[-300:]}")
            time.sleep(0.02)
        return text.splitlines()[0]

    def fail(self, message):
        print(f"memory: {message}", file=sys.stderr)
        sys.exit(1)

    def seeder(self, name, source, size):
        """Publishes random bytes and serves them; the build and the seeder's address."""
        with open(self.folder / source, "wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - start)))
        publish = [self.shoal, "publish", self.folder / source, "--app", "memory", "--store", self.folder / f"{name}-store"]
        build = subprocess.run(publish, check=True, capture_output=True, text=True).stdout.strip()
        (self.folder / source).unlink()
        seeder = self.start(
            name, self.shoal, "seeder", "--store", self.folder / f"{name}-store", "--listen", "127.0.0.1:0",
            "--state", self.folder / f"{name}-state",
        )
        return build, self.line_of(name, seeder), seeder

    def host(self, name, build, address):
        command = [self.shoal, "fetch", build, "--seeder", address, "--out", self.folder / name, "--listen", "127.0.0.1:0", "--keep-serving", "--json"]
        return self.start(name, *command)

    def peak_mib(self, process):
        status = Path(f"/proc/{process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def connections(self, process):
        """Its TCP connections, by which chunks travel; those of the control plane are QUIC's."""
        sockets = subprocess.run(["ss", "-tnpH", "state", "established"], capture_output=True, text=True).stdout
        return sum(f"pid={process.pid}," in line for line in sockets.splitlines())

    def neighbours(self):
        arguments = self.arguments
        build, address, seeder = self.seeder("seeder", "data", int(arguments.gigabytes * 1e9))
        store = self.folder / "seeder-store"
        neighbours = self.start("neighbours", self.repeat.with_name("serve_many"), build, address, store, arguments.neighbours)
        self.line_of("neighbours", neighbours)
        host = self.host("host", build, address)
        connections = 0
        while not (self.folder / "host.out").stat().st_size and host.poll() is None:
            connections = max(connections, self.connections(host))
            time.sleep(0.2)
        report = json.loads(self.line_of("host", host))
        self.report(dict(
            what="download", bytes=report["bytes"], neighbours=arguments.neighbours, connections_max=connections,
            seconds=round(report["seconds"], 2), mb_s=round(report["bytes"] / report["seconds"] / 1e6),
            from_peers_percent=round(100 * report["bytes_from_peers"] / report["bytes"]),
            host_peak_mib=round(self.peak_mib(host), 1), seeder_peak_mib=round(self.peak_mib(seeder), 1),
            neighbours_together_peak_mib=round(self.peak_mib(neighbours), 1), limit_mib=RSS_MIB_MAX,
            is_right=max(self.peak_mib(host), self.peak_mib(seeder)) <= RSS_MIB_MAX,
        ))
        self.stop()

    def growth(self):
        count = self.arguments.downloads
        build, address, _ = self.seeder("small", "small-data", 32 << 20)
        process = self.start("repeat", self.repeat, build, address, self.folder / "repeat-store", count)
        if process.wait(GIVE_UP_SECONDS):
            self.fail(f"repeat: {(self.folder / 'repeat.log').read_text().strip()[-300:]}")
        samples = [int(line) / 1024 for line in (self.folder / "repeat.out").read_text().split()]
        kept = samples[len(samples) // 5:]
        middle, mean = (len(kept) - 1) / 2, sum(kept) / len(kept)
        slope = sum((i - middle) * (s - mean) for i, s in enumerate(kept)) / sum((i - middle) ** 2 for i in range(len(kept)))
        self.report(dict(
            what="growth", downloads=len(samples), first_mib=round(samples[0], 1), last_mib=round(samples[-1], 1),
            most_mib=round(max(samples), 1), growth_mib_per_100=round(slope * 100, 2), limit_mib=GROWTH_MIB_MAX,
            is_right=slope * 100 <= GROWTH_MIB_MAX,
        ))

    def report(self, row):
        self.all_right = self.all_right and row["is_right"]
        if self.arguments.json:
            print(json.dumps(row), flush=True)
        else:
            print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in row.items()), flush=True)

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes = []

    def close(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(prog="benches/memory.py", allow_abbrev=False)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--neighbours", type=int, default=50)
    parser.add_argument("--downloads", type=int, default=100)
    parser.add_argument("--folder", default=os.environ.get("TMPDIR", "/tmp"))
    parser.add_argument("--programs", metavar="DIR")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.programs:
        root = Path(__file__).resolve().parent.parent
        for what in (["--bin", "shoal"], ["-p", "benches", "--bins"]):
            subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", *what], cwd=root, check=True)
        arguments.programs = root / "target/release"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    bench = Bench(arguments)
    try:
        bench.growth()
        bench.neighbours()
        sys.exit(0 if bench.all_right else 1)
    finally:
        bench.close()


main()
