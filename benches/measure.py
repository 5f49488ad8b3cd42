"""What the scripts here measure with: processes, machines, medians. Standard library only.

CPU time is user plus system time, of a process and of its children that have ended, as the kernel
counts it in /proc/PID/stat (in ticks of 10 ms) and in wait4. Peak memory is VmHWM, which counts
pages of mapped files too.
"""

import datetime
import os
import pathlib
import signal
import statistics
import subprocess
import tempfile
import threading
import time

TICKS = os.sysconf("SC_CLK_TCK")
ROOT = pathlib.Path(__file__).resolve().parent.parent


class Failed(Exception):
    """A measurement that did not work; the text says why."""


def cpu_seconds(pid):
    """User and system time of a process so far, with that of its children that it waited for."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS


def peak_mib(pid):
    """Most memory that a process has held at once, in MiB."""
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def children(pid):
    """The living children of a process, of any of its threads."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as listed:
                found += [int(child) for child in listed.read().split()]
    except OSError:
        pass
    return found


class Process:
    """A process under measurement. Its memory is watched, its end is waited for with wait4."""

    # Processes have sessions of their own, so that a signal from the terminal does not reach them.
    started_ones = []

    @classmethod
    def kill_all(cls):
        """Leaves none behind, whatever happened."""
        for process in cls.started_ones:
            if process.code is None:
                process.kill()

    def __init__(self, command, folder, name, cwd=None):
        self.name = name
        self.log = pathlib.Path(folder) / f"{name}.log"
        self.out = pathlib.Path(folder) / f"{name}.out"
        with open(self.out, "wb") as out:
            self.started = time.monotonic()
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE,
                cwd=cwd, start_new_session=True,
            )
        self.pid = self.child.pid
        Process.started_ones.append(self)
        self.peaks = {}
        self.seconds = None
        self.cpu = None
        self.code = None
        self.lines = []
        self.on_line = None
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def _read(self):
        with open(self.log, "w") as log:
            for raw in self.child.stderr:
                line = raw.decode(errors="replace")
                if self.on_line:
                    self.on_line(line)
                log.write(line)
                log.flush()

    def _watch(self):
        while self.code is None:
            self.note_peaks()
            time.sleep(0.1)

    def note_peaks(self):
        """VmHWM only grows, so the last look at each process is the one that counts."""
        todo = [self.pid]
        while todo:
            pid = todo.pop()
            try:
                self.peaks[pid] = max(peak_mib(pid), self.peaks.get(pid, 0.0))
            except OSError:
                continue
            todo += children(pid)

    def peak(self):
        """The sum over the process and its children; too high if they were not there at once."""
        return sum(self.peaks.values())

    def finish(self, timeout=600):
        """Waits for the end; fails unless the exit code is 0."""
        timer = threading.Timer(timeout, self.kill)
        timer.start()
        try:
            _, status, usage = os.wait4(self.pid, 0)
        finally:
            timer.cancel()
        self.seconds = time.monotonic() - self.started
        self.cpu = usage.ru_utime + usage.ru_stime
        self.peaks[self.pid] = max(self.peaks.get(self.pid, 0.0), usage.ru_maxrss / 1024)
        self.code = os.waitstatus_to_exitcode(status)
        self.child.returncode = self.code
        self.reader.join(5)
        if self.code != 0:
            raise Failed(f"{self.name} ended with {self.code}: {self.tail()}")

    def tail(self):
        text = self.log.read_text().strip() or self.out.read_text().strip()
        return text.splitlines()[-1] if text else "it said nothing"

    def kill(self):
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def stop(self):
        """Ends a server, however far it is."""
        if self.code is not None:
            return
        self.note_peaks()
        try:
            os.killpg(self.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            self.child.wait()
        self.code = self.child.returncode

    def first_line(self, timeout=60):
        """The first line on standard output, once it is there."""
        deadline = time.monotonic() + timeout
        while True:
            text = self.out.read_text()
            if "\n" in text:
                return text.partition("\n")[0]
            if self.child.poll() is not None:
                self.code = self.child.returncode
                self.reader.join(5)
                raise Failed(f"{self.name} ended with {self.code}: {self.tail()}")
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} does not get ready")
            time.sleep(0.02)


def run(command, **options):
    """Runs a command that is not measured; its standard output."""
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Failed(f"{' '.join(command[:2])} ended with {done.returncode}: {said[-1] if said else ''}")
    return done.stdout


def machine(folder):
    """What the figures were measured on."""
    def first(path, key):
        with open(path) as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "?")

    commit = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
                            capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit or "?",
        "cores": os.cpu_count(),
        "model": first("/proc/cpuinfo", "model name"),
        "memory_gib": round(int(first("/proc/meminfo", "MemTotal").split()[0]) / 2**20),
        "kernel": os.uname().release,
        "file_system": run(["df", "--output=fstype", folder]).split()[-1],
        "folder": str(folder),
        "load_before": os.getloadavg()[0],
    }


def in_words(machine):
    """One line for a person."""
    return "{date}, commit {commit}, {cores} cores ({model}), {memory_gib} GiB, Linux {kernel}, {file_system}".format(**machine)


def median(values):
    """The median of the values that are there; None of none."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def table(head, rows):
    """Columns for a person: the first one left, all others right."""
    rows = [head] + rows
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def work_folder(parent, needed, name):
    """A fresh directory with room for `needed` bytes."""
    try:
        stat = os.statvfs(parent)
    except OSError as error:
        raise Failed(f"--folder {parent}: {error.strerror}; name a directory that exists") from error
    free = stat.f_bavail * stat.f_frsize
    if free < needed:
        raise Failed(f"--folder {parent} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed; "
                     "name another place or fewer --gigabytes")
    return pathlib.Path(tempfile.mkdtemp(prefix=f"shoal-{name}-", dir=parent))
