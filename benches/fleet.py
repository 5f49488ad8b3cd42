#!/usr/bin/env python3
"""Brings one build to many hosts, each behind a link of its own, and says how long the last one took.

    benches/fleet.py [--hosts 20] [--rate 40mbit] [--mib 64] [--tool shoal] [--runs 1] [--json FILE] ...

Owns the bed: a network namespace per host and one for the seeder, each a veth pair on a bridge,
shaped both ways by tbf; starts the tool, measures, compares every file with the source byte by byte,
and removes all of it, however it ends. Needs root (or CAP_SYS_ADMIN and CAP_NET_ADMIN), `ip` and
`tc`. Tools: shoal, aria2, libtorrent, libtorrent-super (super-seeding), transmission, http (one
origin, curl). One that is not installed is said to be so and left out. See benches/README.md.

Exit: 0 measured, 1 something failed or a file is wrong, 2 wrong usage or no namespaces here.
"""
import argparse
import ctypes
import filecmp
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TAG = f"shfleet{os.getpid()}"
BUILD_NAME = "data"
SEEDER = 0
# A host's link may hold this much in a burst, and packets wait for it as long as this.
SHAPER = ["burst", "32k", "latency", "50ms"]
POLL_S = 0.005
CLONE_NEWNET = 0x40000000
TOOLS = ["shoal", "aria2", "libtorrent", "libtorrent-super", "transmission", "http"]
# The only python that has Debian's python3-libtorrent.
SYSTEM_PYTHON = "/usr/bin/python3"


class Failure(Exception):
    """What ends a run with code 1."""


def refuse(text):
    print(f"fleet: {text}", file=sys.stderr)
    sys.exit(2)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


# --- the bed -------------------------------------------------------------------------------------


def address(node):
    return f"10.78.{(node + 1) >> 8}.{(node + 1) & 255}"


def namespace(node):
    return f"{TAG}-{node}"


class Bed:
    """Namespaces and links. Everything is named by TAG, so that `remove` finds all of it."""

    def __init__(self, hosts, rate, seeder_rate, congestion):
        self.congestion = congestion
        self.bridge = f"{TAG}-bridge"
        run("ip", "netns", "add", self.bridge)
        # A bridge may hand every packet to iptables; what that takes would be the bed's, not the tool's.
        bare = "[ ! -e /proc/sys/net/bridge ] || for f in /proc/sys/net/bridge/bridge-nf-call-*; do echo 0 > $f; done"
        run("ip", "netns", "exec", self.bridge, "sh", "-c", bare)
        run("ip", "-n", self.bridge, "link", "add", "bridge0", "type", "bridge")
        run("ip", "-n", self.bridge, "link", "set", "bridge0", "up")
        for node in range(hosts + 1):
            self.add(node, seeder_rate if node == SEEDER else rate)

    def add(self, node, rate):
        name, port = namespace(node), f"port{node}"
        run("ip", "netns", "add", name)
        if self.congestion:
            run("ip", "netns", "exec", name, "sh", "-c", f"echo {self.congestion} > /proc/sys/net/ipv4/tcp_congestion_control")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", self.bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "-n", self.bridge, "link", "set", port, "master", "bridge0", "up")
        run("ip", "-n", name, "address", "add", f"{address(node)}/16", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "netns", "exec", self.bridge, "tc", "qdisc", "add", "dev", port, "root", "tbf", "rate", rate, *SHAPER)
        run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, *SHAPER)

    @staticmethod
    def sent(node):
        """Bytes that left the node, as its shaper counts them: each packet with its headers."""
        shown = run("ip", "netns", "exec", namespace(node), "tc", "-s", "qdisc", "show", "dev", "eth0", "root")
        return int(re.search(r"Sent (\d+) bytes", shown).group(1))

    @staticmethod
    def remove():
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
        for line in listed.splitlines():
            name = line.split()[0] if line.split() else ""
            if name.startswith(TAG + "-"):
                subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


class Processes:
    """What was started in namespaces, with the processor time that each took."""

    def __init__(self):
        self.alive = {}
        self.cpu_s = 0.0

    def start(self, node, command, folder, gate=None, environment=None):
        """Starts a command in the node's namespace; with a gate, not before it is closed."""
        os.makedirs(folder, exist_ok=True)
        pid = os.fork()
        if pid == 0:
            try:
                self.become(node, command, folder, gate, environment)
            except BaseException as error:  # noqa: B902: a child must never go back into this script
                print(f"fleet: {command[0]}: {error}", file=sys.stderr)
            os._exit(127)
        self.alive[pid] = (node, command[0], folder)
        return pid

    @staticmethod
    def become(node, command, folder, gate, environment):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        with open(f"/run/netns/{namespace(node)}", "rb") as handle:
            if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        os.chdir(folder)
        out = os.open("out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        null = os.open("/dev/null", os.O_RDONLY)
        if gate is not None:
            read_end, write_end = gate
            os.close(write_end)
            os.read(read_end, 1)
        for target, source in enumerate((null, out, log)):
            os.dup2(source, target)
        os.closerange(3, 256)
        os.execvpe(command[0], command, environment or os.environ)

    def reap(self, pid, flags=os.WNOHANG):
        done, _, usage = os.wait4(pid, flags)
        if done:
            del self.alive[done]
            self.cpu_s += usage.ru_utime + usage.ru_stime
        return bool(done)

    def check(self, may_end):
        """Notices those that ended; a failure unless such a process may end by itself."""
        for pid, (node, name, folder) in list(self.alive.items()):
            if self.reap(pid) and not may_end:
                raise Failure(f"{name} of node {node} ended by itself: {last_words(folder)}")

    def stop(self):
        deadline = time.monotonic() + 10
        for pid in self.alive:
            os.kill(pid, signal.SIGTERM)
        while self.alive and time.monotonic() < deadline:
            for pid in list(self.alive):
                self.reap(pid)
            time.sleep(0.02)
        for pid in list(self.alive):
            os.kill(pid, signal.SIGKILL)
            self.reap(pid, 0)


def last_words(folder):
    said = []
    for name in ("log", "out"):
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            said += [line for line in file.read().splitlines() if line.strip()][-2:]
    return " | ".join(said) or "it said nothing"


# --- torrents: file and tracker ------------------------------------------------------------------


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    pairs = sorted((key.encode(), item) for key, item in value.items())
    return b"d" + b"".join(bencode(key) + bencode(item) for key, item in pairs) + b"e"


def write_torrent(source, path, part):
    """A torrent of one file, `part` bytes per hash, with the tracker of the bed."""
    hashes = []
    with open(source, "rb") as file:
        while block := file.read(part):
            hashes.append(hashlib.sha1(block).digest())
    info = {"length": os.path.getsize(source), "name": BUILD_NAME, "piece length": part, "pieces": b"".join(hashes)}
    announce = f"http://{address(SEEDER)}:6969/announce"
    with open(path, "wb") as file:
        file.write(bencode({"announce": announce, "info": info}))


def serve_tracker():
    """A tracker that names everybody to everybody. Runs in the seeder's namespace."""
    import http.server
    import socket
    import urllib.parse

    known = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if not self.path.startswith("/announce?"):
                return self.send_error(404)
            query = urllib.parse.urlparse(self.path).query
            fields = urllib.parse.parse_qs(query, encoding="latin-1")
            me = (self.client_address[0], int(fields["port"][0]))
            if fields.get("event") == ["stopped"]:
                known.pop(me, None)
            else:
                known[me] = True
            others = [peer for peer in known if peer != me]
            packed = b"".join(socket.inet_aton(host) + port.to_bytes(2, "big") for host, port in others)
            body = bencode({"interval": 10, "min interval": 2, "peers": packed})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            print(self.client_address[0], flush=True)

    http.server.ThreadingHTTPServer(("", 6969), Handler).serve_forever()


def run_libtorrent(torrent, folder, own_address, is_super):
    """One libtorrent session; writes the file `done` once everything is here."""
    import libtorrent

    session = libtorrent.session({
        "listen_interfaces": f"{own_address}:6881",
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "alert_mask": 0,
    })
    params = libtorrent.add_torrent_params()
    params.ti = libtorrent.torrent_info(torrent)
    params.save_path = folder
    if is_super:
        params.flags |= libtorrent.torrent_flags.super_seeding
    handle = session.add_torrent(params)
    while not handle.status().is_seeding:
        time.sleep(0.02)
    open("done", "w").close()
    while True:
        time.sleep(60)


# --- tools ---------------------------------------------------------------------------------------


class Torrent:
    """What the BitTorrent programs have in common: a tracker, and a hook that writes `done`."""

    def __init__(self, args, folder):
        self.args = args
        self.torrent = f"{folder}/build.torrent"
        self.hook = f"{folder}/hook"
        self.source = f"{folder}/source"

    def prepare(self, processes):
        write_torrent(f"{self.source}/{BUILD_NAME}", self.torrent, self.args.part_kib << 10)
        with open(self.hook, "w") as file:
            file.write("#!/bin/sh\n: > \"${TR_TORRENT_DIR:-.}/done\"\n")
        os.chmod(self.hook, 0o755)
        tracker = [sys.executable, os.path.abspath(__file__), "_tracker"]
        self.tracker = processes.start(SEEDER, tracker, f"{self.source}/../tracker")

    def start_seeder(self, processes, folder):
        processes.start(SEEDER, self.command(SEEDER, self.source), folder)
        wait_until(processes, lambda: os.path.getsize(f"{folder}/../tracker/log") + os.path.getsize(f"{folder}/../tracker/out"), "the seeder's announce")

    @staticmethod
    def is_done(folder):
        return os.path.exists(f"{folder}/done")

    @staticmethod
    def file_in(folder):
        return f"{folder}/{BUILD_NAME}"


class Aria2(Torrent):
    @staticmethod
    def missing():
        return None if shutil.which("aria2c") else "aria2c is not installed (apt-get install aria2)"

    def command(self, node, folder):
        return ["aria2c", "--no-conf", "--enable-dht=false", "--bt-enable-lpd=false", "--disable-ipv6=true",
                "--listen-port=6881", "--seed-ratio=0.0", "--file-allocation=none", "--summary-interval=0",
                "--bt-max-peers=0", f"--dir={folder}", f"--on-bt-download-complete={self.hook}",
                *(["--check-integrity=true"] if node == SEEDER else []), self.torrent]


class Libtorrent(Torrent):
    is_super = False

    @staticmethod
    def missing():
        found = subprocess.run([SYSTEM_PYTHON, "-c", "import libtorrent"], capture_output=True)
        return None if found.returncode == 0 else "python3-libtorrent is not installed"

    def command(self, node, folder):
        mode = "_super" if self.is_super and node == SEEDER else "_libtorrent"
        return [SYSTEM_PYTHON, os.path.abspath(__file__), mode, self.torrent, folder, address(node)]


class LibtorrentSuper(Libtorrent):
    is_super = True


class Transmission(Torrent):
    @staticmethod
    def missing():
        return None if shutil.which("transmission-cli") else "transmission-cli is not installed"

    def command(self, node, folder):
        settings = f"{folder}/../transmission-{node}"
        os.makedirs(settings, exist_ok=True)
        with open(f"{settings}/settings.json", "w") as file:
            json.dump({"dht-enabled": False, "lpd-enabled": False, "ratio-limit-enabled": False}, file)
        return ["transmission-cli", "-g", settings, "-w", folder, "-M", "-D", "-U", "-p", "6881",
                "-f", self.hook, *(["-v"] if node == SEEDER else []), self.torrent]


class Http:
    """One origin that serves everybody."""

    def __init__(self, args, folder):
        self.source = f"{folder}/source"

    @staticmethod
    def missing():
        return None if shutil.which("curl") else "curl is not installed"

    def prepare(self, processes):
        pass

    def start_seeder(self, processes, folder):
        server = [sys.executable, "-m", "http.server", "8000", "--protocol", "HTTP/1.1", "--directory", self.source]
        processes.start(SEEDER, server, folder)
        probe = ["ip", "netns", "exec", namespace(SEEDER), "curl", "-sf", "-r", "0-0", "-o", "/dev/null",
                 "-I", f"http://{address(SEEDER)}:8000/{BUILD_NAME}"]
        wait_until(processes, lambda: subprocess.run(probe).returncode == 0, "the origin")

    def command(self, node, folder):
        return ["sh", "-c", f"curl -sf -o {BUILD_NAME} http://{address(SEEDER)}:8000/{BUILD_NAME} && : > done && exec sleep 100000"]

    is_done = staticmethod(Torrent.is_done)
    file_in = staticmethod(Torrent.file_in)


class Shoal:
    def __init__(self, args, folder):
        self.args = args
        self.folder = folder
        self.source = f"{folder}/source"
        self.program = os.path.join(args.programs, "shoal")
        self.transport = ["--transport", args.transport] if args.transport else []

    @staticmethod
    def missing():
        return None

    def prepare(self, processes):
        self.build = run(self.program, "publish", f"{self.source}/{BUILD_NAME}", "--app", "fleet",
                         "--store", f"{self.folder}/store", "--chunk-lengths-to", f"{self.folder}/lengths").strip()

    def start_seeder(self, processes, folder):
        seeder = [self.program, "seeder", "--store", f"{self.folder}/store", "--listen", f"{address(SEEDER)}:7400",
                  "--state", f"{folder}/state", *self.transport]
        processes.start(SEEDER, seeder, folder, environment=self.environment())
        wait_until(processes, lambda: os.path.getsize(f"{folder}/out"), "the seeder's address")
        with open(f"{folder}/out") as file:
            self.seeder = file.read().strip()

    def environment(self):
        return {**os.environ, **({"SHOAL_LOG_LEVEL": self.args.log} if self.args.log else {})}

    def command(self, node, folder):
        return [self.program, "fetch", self.build, "--seeder", self.seeder, "--out", f"{folder}/files",
                "--listen", f"{address(node)}:0", "--keep-serving", "--json", *self.transport]

    @staticmethod
    def is_done(folder):
        return os.path.getsize(f"{folder}/out") > 0

    @staticmethod
    def file_in(folder):
        return f"{folder}/files/{BUILD_NAME}"

    def details(self, hosts):
        """What the hosts counted: chunk bytes that came, in percent of what was needed, beyond it."""
        received, needed = 0, 0
        for folder in hosts:
            with open(f"{folder}/out") as file:
                counted = json.loads(file.readline())
            received += counted.get("bytes_from_seeders", 0) + counted.get("bytes_from_peers", 0)
            needed += os.path.getsize(self.file_in(folder))
        with open(f"{self.folder}/lengths") as file:
            chunks = sum(1 for _ in file)
        return {"chunks": chunks, "in_vain_percent": round((received / needed - 1) * 100, 2)}


MAKERS = {"shoal": Shoal, "aria2": Aria2, "libtorrent": Libtorrent, "libtorrent-super": LibtorrentSuper,
          "transmission": Transmission, "http": Http}


# --- a run ---------------------------------------------------------------------------------------


def wait_until(processes, is_so, what, limit_s=30):
    deadline = time.monotonic() + limit_s
    while True:
        try:
            if is_so():
                return
        except FileNotFoundError:
            pass
        processes.check(may_end=False)
        if time.monotonic() > deadline:
            raise Failure(f"{what} did not come within {limit_s} s")
        time.sleep(0.02)


def busy_jiffies():
    with open("/proc/stat") as file:
        fields = list(map(int, file.readline().split()[1:9]))
    return sum(fields) - fields[3] - fields[4], sum(fields)


def measure(tool, args, folder, limit_s):
    """One run of one tool: what came of it, as a dictionary."""
    processes = Processes()
    try:
        Bed(args.hosts, args.rate, args.seeder_rate, args.congestion)
        maker = MAKERS[tool](args, folder)
        maker.prepare(processes)
        maker.start_seeder(processes, f"{folder}/seeder")
        processes.check(may_end=False)
        hosts = {node: f"{folder}/host-{node}" for node in range(1, args.hosts + 1)}
        gate = os.pipe()
        for node, place in hosts.items():
            os.makedirs(place)
            command = maker.command(node, place)
            environment = maker.environment() if tool == "shoal" else None
            processes.start(node, command, place, gate, environment)
        time.sleep(0.5)
        sent_before, busy_before = Bed.sent(SEEDER), busy_jiffies()
        start = time.monotonic()
        os.close(gate[0])
        os.close(gate[1])
        done = await_all(processes, maker, hosts, start, limit_s)
        sent, busy_after = Bed.sent(SEEDER) - sent_before, busy_jiffies()
        all_sent = sum(Bed.sent(node) for node in range(args.hosts + 1))
        processes.stop()
        source = f"{folder}/source/{BUILD_NAME}"
        for node, place in hosts.items():
            if not filecmp.cmp(source, maker.file_in(place), shallow=False):
                raise Failure(f"the file of host {node} is not the one that was published")
        size = os.path.getsize(source)
        times = sorted(done.values())
        result = {
            "tool": tool, "hosts": args.hosts, "rate": args.rate, "seeder_rate": args.seeder_rate, "mib": args.mib,
            "bound_s": round(bound_s(args, size), 3),
            "first_s": round(times[0], 3), "p50_s": round(times[len(times) // 2], 3), "last_s": round(times[-1], 3),
            "last_over_bound": round(times[-1] / bound_s(args, size), 3),
            "seeder_copies": round(sent / size, 3),
            "cpu_s_per_gib": round(processes.cpu_s / (args.hosts * size / 2**30), 2),
            "link_bytes_permille": round((all_sent / (args.hosts * size) - 1) * 1000),
            "machine_busy_percent": round(100 * (busy_after[0] - busy_before[0]) / max(1, busy_after[1] - busy_before[1])),
            "hosts_s": [round(done[node], 3) for node in sorted(done)],
        }
        with open("/proc/sys/net/ipv4/tcp_congestion_control") as file:
            result["congestion"] = args.congestion or file.read().strip()
        if args.transport and tool == "shoal":
            result["transport"] = args.transport
        if tool == "shoal":
            result.update(maker.details(hosts.values()))
        return result
    finally:
        processes.stop()
        Bed.remove()


def await_all(processes, maker, hosts, start, limit_s):
    done = {}
    while len(done) < len(hosts):
        for node, place in hosts.items():
            try:
                if node not in done and maker.is_done(place):
                    done[node] = time.monotonic() - start
            except FileNotFoundError:
                pass
        processes.check(may_end=False)
        if time.monotonic() - start > limit_s:
            late = sorted(set(hosts) - set(done))
            raise Failure(f"hosts {late} were not done after {limit_s:.0f} s: {last_words(hosts[late[0]])}")
        time.sleep(POLL_S)
    return done


def bits_per_second(rate):
    number, unit = re.fullmatch(r"(\d+)([kmg]?)bit", rate).groups()
    return int(number) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[unit]


def bound_s(args, size):
    """What no way of distributing beats: one copy down a host's link, one out of the seeder, and all copies
    out of all uplinks. Headers are not taken off, so nobody reaches it."""
    host, seeder = bits_per_second(args.rate), bits_per_second(args.seeder_rate)
    return 8 * size * max(1 / host, 1 / seeder, args.hosts / (seeder + args.hosts * host))


def machine():
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "?")
    return f"{os.cpu_count()} cores, {model}, Linux {platform.release()}"


def write_source(path, mib):
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))


def check_bed_possible():
    for tool in ("ip", "tc"):
        if not shutil.which(tool):
            refuse(f"{tool} is missing; install iproute2 (apt-get install iproute2)")
    probe = f"{TAG}-probe"
    try:
        run("ip", "netns", "add", probe)
        run("ip", "-n", probe, "link", "add", "probe0", "type", "veth", "peer", "name", "probe1")
        run("ip", "netns", "exec", probe, "tc", "qdisc", "add", "dev", "probe0", "root", "tbf", "rate", "1mbit", *SHAPER)
    except Failure as failure:
        Bed.remove()
        refuse(f"cannot make shaped network namespaces here, so nothing was measured; run it as root, with CAP_SYS_ADMIN and CAP_NET_ADMIN ({failure})")
    Bed.remove()


def parse():
    parser = argparse.ArgumentParser(prog="fleet", description=__doc__.split("\n\n")[0], epilog="Needs root. See benches/README.md.")
    parser.add_argument("--hosts", type=int, default=20)
    parser.add_argument("--rate", default="40mbit", help="of each host's link each way, as tc takes it (default 40mbit)")
    parser.add_argument("--seeder-rate", help="of the seeder's link; that of a host if not given")
    parser.add_argument("--mib", type=int, default=64, help="size of the build: a file of random bytes (default 64)")
    parser.add_argument("--tool", action="append", choices=TOOLS, help="may be given several times (default shoal)")
    parser.add_argument("--transport", choices=["quic", "tcp", "auto"], help="passed on to shoal if given")
    parser.add_argument("--congestion", help="TCP's congestion control in the namespaces (default: as the system has it)")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--part-kib", type=int, default=256, help="bytes per hash of a torrent (default 256)")
    parser.add_argument("--limit-s", type=float, help="longest time of a run (default thirty times the bound)")
    parser.add_argument("--json", metavar="FILE", help="append one JSON object per run")
    parser.add_argument("--folder", default="/dev/shm", help="where the files go; memory by default, so that no disk is measured")
    parser.add_argument("--programs", help="directory that holds shoal; built if not given")
    parser.add_argument("--log", help="SHOAL_LOG_LEVEL of shoal's processes")
    parser.add_argument("--keep", action="store_true", help="leave the files where they are, and say where")
    args = parser.parse_args()
    args.seeder_rate = args.seeder_rate or args.rate
    for rate in (args.rate, args.seeder_rate):
        if not re.fullmatch(r"[1-9]\d*[kmg]?bit", rate):
            refuse(f"{rate} is no rate; write it as 40mbit")
    if not 1 <= args.hosts <= 200 or args.mib < 1 or args.runs < 1 or args.part_kib < 16:
        refuse("--hosts takes 1 to 200, --mib and --runs a number above 0, --part-kib 16 or more")
    args.tool = args.tool or ["shoal"]
    free = shutil.disk_usage(args.folder).free >> 20 if os.path.isdir(args.folder) else refuse(f"{args.folder} is no directory")
    needed = args.mib * (args.hosts + 3)
    if free < needed:
        refuse(f"{args.folder} has {free} MiB free, {needed} are needed; name another place with --folder")
    return args


def interrupted(number, _frame):
    # Once is enough: a second one must not break the clearing up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main():
    args = parse()
    check_bed_possible()
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    if "shoal" in args.tool and not args.programs:
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--bin", "shoal"], cwd=REPOSITORY, check=True)
        args.programs = f"{REPOSITORY}/target/release"
    args.programs = os.path.abspath(args.programs or ".")
    print(f"machine: {machine()}")
    print(f"{'tool':<17} {'hosts':>5} {'MiB':>5} {'bound s':>8} {'first s':>8} {'p50 s':>8} {'last s':>8} {'x bound':>7} {'copies':>6} {'cpu s/GiB':>9} {'links':>6} {'busy':>5} in vain", flush=True)
    status = 0
    for tool in args.tool:
        missing = MAKERS[tool].missing()
        if missing:
            print(f"{tool:<17} left out: {missing}", flush=True)
            continue
        for _ in range(args.runs):
            status = max(status, measure_and_print(tool, args))
    return status


def measure_and_print(tool, args):
    folder = tempfile.mkdtemp(prefix="shoal-fleet-", dir=args.folder)
    try:
        os.mkdir(f"{folder}/source")
        write_source(f"{folder}/source/{BUILD_NAME}", args.mib)
        limit_s = args.limit_s or 30 * bound_s(args, args.mib << 20) + 30
        found = measure(tool, args, folder, limit_s)
    except Failure as failure:
        print(f"fleet: {tool}: {failure}", file=sys.stderr, flush=True)
        return 1
    finally:
        if args.keep:
            print(f"fleet: files are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{tool:<17} {found['hosts']:>5} {found['mib']:>5} {found['bound_s']:>8.2f} {found['first_s']:>8.2f} {found['p50_s']:>8.2f} "
          f"{found['last_s']:>8.2f} {found['last_over_bound']:>7.3f} {found['seeder_copies']:>6.3f} {found['cpu_s_per_gib']:>9.2f} "
          f"{found['link_bytes_permille']:>5}‰ {found['machine_busy_percent']:>4}% {found.get('in_vain_percent', '')}", flush=True)
    if args.json:
        with open(args.json, "a") as file:
            line = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine(), **found}
            file.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["_tracker"]:
        serve_tracker()
    elif sys.argv[1:2] in (["_libtorrent"], ["_super"]):
        run_libtorrent(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[1] == "_super")
    else:
        sys.exit(main())
