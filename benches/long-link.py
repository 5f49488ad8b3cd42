#!/usr/bin/env python3
"""How QUIC and TCP do on a long and lossy way: one seeder and one host, each in a network namespace
of its own, joined by a link that this script plays packet by packet (the kernel here has no netem).

    benches/long-link.py [--delay MS] [--loss PERCENT] [--rate MBIT] [--mib N] [--runs N]
                      [--transport quic,tcp] [--congestion NAME] [--json FILE] [--bin DIR]

Two TUN devices, one moved into each namespace; every packet read from one waits for its turn on a
line of the given rate, then half a round trip, and is written to the other, unless it is one of
the lost ones (drawn with a fixed seed). The line queues up to 50 ms, then drops. Needs root and
/dev/net/tun. Slow by nature: above some 300 Mbit/s it measures itself, and says so.

Prints seconds and Mbit/s per run and medians. Exit code 1 if a download fails or a byte is wrong.
"""

import argparse
import fcntl
import heapq
import json
import os
import random
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000
QUEUE_SECONDS = 0.05
HERE = os.path.dirname(os.path.abspath(__file__))


class Link:
    """Moves packets between two TUN devices, each way at a rate, late, and not all of them."""

    def __init__(self, names, delay, loss, rate):
        self.fds = [open_tun(name) for name in names]
        self.delay, self.loss, self.rate = delay / 2, loss, rate
        self.free_at = [0.0, 0.0]
        self.waiting = []  # (when, sequence, fd, packet)
        self.random = random.Random(1)
        self.sequence = 0
        self.passed = self.lost = self.dropped = 0
        self.late = 0.0
        self.stopping = False
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        poll = select.poll()
        for fd in self.fds:
            poll.register(fd, select.POLLIN)
        sides = {fd: side for side, fd in enumerate(self.fds)}
        while not self.stopping:
            now = time.monotonic()
            while self.waiting and self.waiting[0][0] <= now:
                due, _, fd, packet = heapq.heappop(self.waiting)
                self.late = max(self.late, now - due)
                try:
                    os.write(fd, packet)
                except OSError:
                    pass  # The device is going away.
            wait = 100.0 if not self.waiting else max(0.0, (self.waiting[0][0] - now) * 1000)
            for fd, _ in poll.poll(min(wait, 100.0)):
                for _ in range(64):
                    try:
                        packet = os.read(fd, 2048)
                    except (BlockingIOError, OSError):
                        break
                    self.take(sides[fd], packet)

    def take(self, side, packet):
        now = time.monotonic()
        start = max(now, self.free_at[side])
        if start - now > QUEUE_SECONDS:
            self.dropped += 1
            return
        self.free_at[side] = start + len(packet) * 8 / self.rate
        if self.random.random() < self.loss:
            self.lost += 1
            return
        self.passed += 1
        self.sequence += 1
        due = self.free_at[side] + self.delay
        heapq.heappush(self.waiting, (due, self.sequence, self.fds[1 - side], packet))


def open_tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN_NO_PI))
    return fd


def sh(*words):
    subprocess.run(words, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=50, metavar="MS", help="round trip; default 50")
    parser.add_argument("--loss", type=float, default=0, metavar="PERCENT", help="of the packets, each way")
    parser.add_argument("--rate", type=float, default=100, metavar="MBIT", help="each way; default 100")
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--transport", default="quic,tcp")
    parser.add_argument("--congestion", metavar="NAME", help="the kernel's congestion control for TCP, such as cubic")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--bin", default=os.path.join(HERE, "..", "target", "release"))
    parser.add_argument("--timeout", type=float, default=300, metavar="S")
    args = parser.parse_args()
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        sys.exit("long-link: needs root and /dev/net/tun")
    shoal = os.path.abspath(os.path.join(args.bin, "shoal"))
    if not os.path.exists(shoal):
        sys.exit(f"long-link: {shoal} is missing; run: cargo build --release --bin shoal")
    with open("/proc/sys/net/ipv4/tcp_congestion_control") as file:
        congestion = args.congestion or file.read().strip()
    tag = f"sl{os.getpid() % 100000}"
    spaces, tuns = [f"{tag}a", f"{tag}b"], [f"{tag}x", f"{tag}y"]
    children, link = [], None
    failed = False
    with tempfile.TemporaryDirectory(prefix="shoal-long-link-") as folder:
        try:
            link = Link(tuns, args.delay / 1000, args.loss / 100, args.rate * 1e6)
            for side, (space, tun) in enumerate(zip(spaces, tuns)):
                sh("ip", "netns", "add", space)
                sh("ip", "link", "set", tun, "netns", space)
                inside = ("ip", "-n", space)
                sh(*inside, "link", "set", "lo", "up")
                sh(*inside, "addr", "add", f"10.99.0.{side + 1}/24", "dev", tun)
                sh(*inside, "link", "set", tun, "up", "mtu", "1500", "txqueuelen", "2000")
                if args.congestion:
                    sh(*inside, "route", "change", "10.99.0.0/24", "dev", tun, "congctl", args.congestion)
            link.thread.start()
            data = os.path.join(folder, "data")
            with open(data, "wb") as file:
                for _ in range(args.mib):
                    file.write(os.urandom(1 << 20))
            build = subprocess.run([shoal, "publish", data, "--app", "long", "--store", f"{folder}/store"],
                                   check=True, capture_output=True, text=True).stdout.strip()
            seeder = subprocess.Popen(["ip", "netns", "exec", spaces[0], shoal, "seeder", "--store", f"{folder}/store",
                                       "--listen", "10.99.0.1:7400", "--state", f"{folder}/seeder"],
                                      stdout=subprocess.PIPE, stderr=open(f"{folder}/seeder.log", "w"), text=True)
            children.append(seeder)
            address = seeder.stdout.readline().strip()
            results = {}
            for run in range(args.runs):
                for transport in args.transport.split(","):
                    out = f"{folder}/out"
                    command = ["ip", "netns", "exec", spaces[1], shoal, "fetch", build, "--seeder", address, "--out", out,
                               "--transport", transport, "--json"]
                    started = time.monotonic()
                    done = subprocess.run(command, capture_output=True, text=True, timeout=args.timeout)
                    seconds = time.monotonic() - started
                    if done.returncode or subprocess.run(["cmp", "-s", data, f"{out}/data"]).returncode:
                        print(f"{transport}: failed: {done.stderr.strip()}", file=sys.stderr)
                        failed = True
                    else:
                        results.setdefault(transport, []).append(seconds)
                        print(f"run {run + 1}: {transport}: {seconds:.2f} s, {args.mib * 8.388608 / seconds:.1f} Mbit/s", flush=True)
                    subprocess.run(["rm", "-rf", out])
            for transport, seconds in results.items():
                median = statistics.median(seconds)
                line = {"bench": "long-link", "transport": transport, "rtt_ms": args.delay, "loss_percent": args.loss,
                        "rate_mbit": args.rate, "tcp_congestion": congestion, "mib": args.mib, "runs": len(seconds), "seconds": round(median, 2),
                        "mbit": round(args.mib * 8.388608 / median, 1)}
                print(json.dumps(line))
                if args.json:
                    with open(args.json, "a") as file:
                        print(json.dumps(line), file=file)
            print(f"link: {link.passed} packets passed, {link.lost} lost, {link.dropped} dropped by a full queue, "
                  f"at most {link.late * 1000:.1f} ms late")
        finally:
            for child in children:
                child.terminate()
                child.wait()
            if link:
                link.stopping = True
                if link.thread.is_alive():
                    link.thread.join()
                for fd in link.fds:
                    os.close(fd)
            for space in spaces:
                subprocess.run(["ip", "netns", "del", space], stderr=subprocess.DEVNULL)
    sys.exit(1 if failed else 0)


main()
