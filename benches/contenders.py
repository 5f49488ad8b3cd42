"""The ways to bring one file from one process to another that `benches/pair.py` compares.

Each is a class with `name`, `note`, a `why_not()` that is None if it can run here, and `go(scene)`, which
transfers `scene.source` once and returns a `Pair`. Servers are started, and have looked at their
files, before the clock starts; the clock runs from the start of the downloader's process to its
end. Verification of what came is the caller's, outside of the clock.
"""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

from measure import Failed, Process, cpu_seconds, run

HERE = pathlib.Path(__file__).resolve().parent
# What a piece is to BitTorrent: as large as an average chunk of Shoal.
PIECE_BYTES = 1 << 20
# What is left of 1500 bytes for the payload of UDP.
ETHERNET = 1472
# Debian's bindings belong to the system's interpreter, whichever else comes first on PATH.
SYSTEM_PYTHON = "/usr/bin/python3"


class Pair:
    """One transfer: what it cost both ends."""

    def __init__(self, server, client, out):
        self.server, self.client, self.out = server, client, out
        self.server_cpu_before = cpu_seconds(server.pid)
        self.marked = None
        self.result = {}

    def mark_transferred(self):
        """Every byte is here; what follows is work on the disk."""
        if self.marked is None:
            seconds = time.monotonic() - self.client.started
            with contextlib.suppress(OSError):
                self.marked = (seconds, cpu_seconds(self.client.pid), cpu_seconds(self.server.pid))

    def finish(self):
        self.client.finish()
        self.server.note_peaks()
        self.server.settle()
        server_cpu = cpu_seconds(self.server.pid) - self.server_cpu_before
        marked = self.marked or (self.client.seconds, self.client.cpu, server_cpu + self.server_cpu_before)
        self.result = {
            "complete_seconds": self.client.seconds,
            "complete_cpu": self.client.cpu + server_cpu,
            "transfer_seconds": marked[0],
            "transfer_cpu_server": marked[2] - self.server_cpu_before,
            "transfer_cpu_client": marked[1],
            "transfer_cpu": marked[1] + marked[2] - self.server_cpu_before,
            "peak_mib_server": self.server.peak(),
            "peak_mib_client": self.client.peak(),
        }
        return self


class Server(Process):
    """A process that serves until it is stopped."""

    # rsync's daemon forks for each client, and counts its child's time once that has ended.
    has_children = False

    def settle(self):
        """Lets it count what its children did."""
        if self.has_children:
            time.sleep(0.3)


class Scene:
    """The file, where things go, and which programs to run."""

    def __init__(self, folder, shoal, bare):
        self.folder, self.shoal, self.bare = folder, shoal, bare
        self.store = folder / "store"
        self.source = None
        self.build = None
        self.has_transport = "--transport" in run([shoal, "fetch", "--help"])
        self.torrent = folder / "source.torrent"

    def fresh(self, name):
        """An empty directory for one run."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def warm_memory(self):
        """Has free memory ready for the file. A virtual machine hands free memory back to its host, a
        sixteenth of all that is free every two seconds, and who writes the file would pay for getting it
        again: up to as much as the whole transfer costs. So more is touched than is needed."""
        place = pathlib.Path("/dev/shm") / f"shoal-pair-{self.folder.name}"
        with open("/proc/meminfo") as lines:
            found = dict(line.split(":") for line in lines)
        available = int(found["MemAvailable"].split()[0]) * 1024
        size = min(2 * self.source.stat().st_size + (2 << 30), available - (3 << 30))
        stat = os.statvfs(place.parent) if place.parent.is_dir() else None
        if size <= 0 or stat is None or stat.f_bavail * stat.f_frsize < size:
            return
        try:
            with open(place, "wb", buffering=0) as file:
                block = bytes(1 << 20)
                for _ in range(size // len(block)):
                    file.write(block)
        finally:
            place.unlink()

    def make_torrent(self, announce):
        """Single file, version 1; aria2 knows no other."""
        pieces = bytearray()
        with open(self.source, "rb") as source:
            while piece := source.read(PIECE_BYTES):
                pieces += hashlib.sha1(piece).digest()
        info = {b"length": self.source.stat().st_size, b"name": self.source.name.encode(),
                b"piece length": PIECE_BYTES, b"pieces": bytes(pieces)}
        self.torrent.write_bytes(bencode({b"announce": announce.encode(), b"info": info}))


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:" % len(value) + value
    if isinstance(value, dict):
        return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"
    raise TypeError(type(value))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port, process, timeout=120):
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.child.poll() is not None:
            process.code = process.child.returncode
            process.reader.join(5)
            raise Failed(f"{process.name} ended with {process.code}: {process.tail()}")
        if time.monotonic() > deadline:
            raise Failed(f"{process.name} does not listen on port {port}")
        time.sleep(0.02)


class Shoal:
    """A seeder and `shoal fetch`: encrypted, BLAKE3, read back and synced before it is complete."""

    def __init__(self, transport):
        self.transport = transport
        self.name = f"shoal {transport}"
        self.note = "encrypted, verified, read back, synced"

    def why_not(self, scene):
        if self.transport != "quic" and not scene.has_transport:
            return "this shoal has no --transport"
        return None

    def go(self, scene):
        chosen = ["--transport", self.transport] if scene.has_transport else []
        out = scene.fresh("out")
        state = scene.fresh("seeder")
        server = Server([scene.shoal, "seeder", "--store", scene.store, "--state", state,
                         "--listen", "127.0.0.1:0", *chosen], scene.folder, "shoal-seeder")
        try:
            address = server.first_line()
            # Ready means that it listens; a build is served once it was looked at.
            client = Process([scene.shoal, "fetch", scene.build, "--seeder", address, "--out", out / "build",
                             "--listen", "127.0.0.1:0", "--json", *chosen], scene.folder, "shoal-fetch")
            pair = Pair(server, client, out / "build" / scene.source.name)
            client.on_line = lambda line: "verifying" in line and pair.mark_transferred()
            pair.finish()
            said = json.loads(client.first_line())
            pair.result["seconds_by_phase"] = said.get("seconds_by_phase")
            return pair
        finally:
            server.stop()


class Bare:
    """The same cipher and file work without a protocol: the most that Shoal could reach."""

    def __init__(self, transport, mtu=None):
        self.transport, self.mtu = transport, mtu
        self.name = f"bare {transport}" + (" Ethernet" if mtu == ETHERNET else "")
        self.note = "encrypted, hashed, read back, synced"

    def why_not(self, _scene):
        return None

    def go(self, scene):
        out = scene.fresh("out")
        link = ["--transport", self.transport, "--certificate", scene.folder / "certificate"]
        if self.mtu:
            link += ["--mtu", self.mtu]
        server = Server([scene.bare, "send", scene.source, *link], scene.folder, "bare-send")
        try:
            address = server.first_line()
            client = Process([scene.bare, "receive", address, "--out", out / "file", *link],
                             scene.folder, "bare-receive")
            pair = Pair(server, client, out / "file")
            client.on_line = lambda line: line.startswith("verifying") and pair.mark_transferred()
            return pair.finish()
        finally:
            server.stop()


class Tracker:
    """The least BitTorrent tracker that aria2 finds its one peer with; not part of what is measured."""

    def __init__(self):
        peers = self.peers = {}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                port = int(asked["port"][0])
                others = [known for known in peers if known != port]
                peers[port] = True
                compact = b"".join(socket.inet_aton("127.0.0.1") + known.to_bytes(2, "big") for known in others)
                body = bencode({b"interval": 60, b"peers": compact})
                # A client that is being stopped says so and does not wait for the answer.
                with contextlib.suppress(ConnectionError):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/announce"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Aria2:
    """Two aria2c over plain TCP; the downloader checks SHA-1 per piece."""

    name = "aria2"
    note = "plain, SHA-1"
    needs_torrent = True

    def __init__(self, tracker):
        self.tracker = tracker

    def why_not(self, _scene):
        return None if shutil.which("aria2c") else "aria2c is not installed (Debian: aria2)"

    def go(self, scene):
        self.tracker.peers.clear()
        out = scene.fresh("out")
        seed_port, port = free_port(), free_port()
        common = ["aria2c", "--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false",
                  "--enable-peer-exchange=false", "--console-log-level=warn", "--summary-interval=0",
                  "--show-console-readout=false", "--file-allocation=falloc"]
        server = Server([*common, f"--listen-port={seed_port}", f"--dir={scene.source.parent}", "--seed-ratio=0.0",
                         "--bt-seed-unverified=true", "--allow-overwrite=true", scene.torrent],
                        scene.folder, "aria2-seed")
        try:
            wait_for_port(seed_port, server)
            deadline = time.monotonic() + 120
            while seed_port not in self.tracker.peers:
                if time.monotonic() > deadline:
                    raise Failed("aria2 does not announce its file")
                time.sleep(0.02)
            client = Process([*common, f"--listen-port={port}", f"--dir={out}", "--seed-time=0", scene.torrent],
                             scene.folder, "aria2-fetch")
            return Pair(server, client, out / scene.source.name).finish()
        finally:
            server.stop()


class Libtorrent:
    """Two libtorrent sessions over plain TCP through the Python bindings; SHA-1 per piece."""

    name = "libtorrent"
    note = "plain, SHA-1"
    needs_torrent = True

    def why_not(self, _scene):
        found = shutil.which(SYSTEM_PYTHON) and subprocess.run(
            [SYSTEM_PYTHON, "-c", "import libtorrent"], capture_output=True, check=False).returncode == 0
        return None if found else "its Python bindings are not installed (Debian: python3-libtorrent)"

    def go(self, scene):
        out = scene.fresh("out")
        port = free_port()
        peer = [SYSTEM_PYTHON, HERE / "libtorrent-peer.py"]
        server = Server([*peer, "seed", scene.torrent, scene.source.parent, port], scene.folder, "libtorrent-seed")
        try:
            server.first_line()
            client = Process([*peer, "fetch", scene.torrent, out, port], scene.folder, "libtorrent-fetch")
            return Pair(server, client, out / scene.source.name).finish()
        finally:
            server.stop()


class Curl:
    """curl from a static file server that uses sendfile: no encryption, nothing is checked."""

    name = "curl"
    note = "plain, unchecked"

    def why_not(self, _scene):
        return None if shutil.which("curl") else "curl is not installed"

    def go(self, scene):
        out = scene.fresh("out")
        port = free_port()
        server = Server([sys.executable, HERE / "file-server.py", scene.source.parent, port], scene.folder, "file-server")
        try:
            wait_for_port(port, server)
            client = Process(["curl", "--silent", "--show-error", "--fail", "--output", out / "file",
                              f"http://127.0.0.1:{port}/{scene.source.name}"], scene.folder, "curl")
            return Pair(server, client, out / "file").finish()
        finally:
            server.stop()


class Rsync:
    """rsync from its daemon, whole file: no encryption, a checksum of the whole file."""

    name = "rsync"
    note = "plain, whole-file checksum"

    def why_not(self, _scene):
        return None if shutil.which("rsync") else "rsync is not installed"

    def go(self, scene):
        out = scene.fresh("out")
        port = free_port()
        config = scene.folder / "rsyncd.conf"
        config.write_text(f"use chroot = no\nport = {port}\naddress = 127.0.0.1\n"
                          f"[data]\npath = {scene.source.parent}\nread only = yes\nuid = root\ngid = root\n")
        server = Server(["rsync", "--daemon", "--no-detach", f"--config={config}"], scene.folder, "rsync-daemon")
        server.has_children = True
        try:
            wait_for_port(port, server)
            client = Process(["rsync", "--whole-file", f"rsync://127.0.0.1:{port}/data/{scene.source.name}",
                              out / "file"], scene.folder, "rsync")
            return Pair(server, client, out / "file").finish()
        finally:
            server.stop()
