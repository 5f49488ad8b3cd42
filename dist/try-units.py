#!/usr/bin/env python3
"""Runs dist/shoal-agent.service and dist/shoal-seeder.service under a real systemd, point by point.

  cargo build --release -p cli -p node-agent -p seeder
  dist/try-units.py [--programs target/release] [--keep]

Needs root, systemd, dbus and util-linux (unshare, nsenter). Boots systemd as process 1 of namespaces of its
own, on an overlay over this machine's files that is gone afterwards: nothing here is changed. There it
does what docs/operations.md tells an administrator to do, then what happens to agents: deploys, updates
of the agent, a stopped process, kill -9, reload, restart, stop. Only WatchdogSec= and TimeoutStartSec= are
shorter than in the unit. Prints a line per point; exits with 1 if one failed. --keep leaves the system up
and says how to enter it.
"""
import argparse, json, os, shutil, signal, subprocess, sys, tempfile, threading, time
from pathlib import Path

DIST = Path(__file__).resolve().parent
PROGRAMS = ("shoal", "shoal-agent", "shoal-seeder")
PATIENCE_SECONDS = 60
# Instead of the unit's minutes. The agent pings three times within it.
WATCHDOG_SECONDS = 6
CLEAN = ["env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
GOAL = "file:///srv/goal"
STATE = "/var/lib/shoal"
STORE = "/var/lib/shoal-seeder/store"

# Process 1 of the namespaces until systemd takes its place. $1 is the folder of the trial.
BOOT = r"""
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs tmpfs sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    touch dev/$name
    mount --bind /dev/$name dev/$name
done
mkdir dev/pts dev/shm
mount -t devpts devpts dev/pts
ln -s pts/ptmx dev/ptmx
for name in dev/shm run tmp; do mount -t tmpfs tmpfs $name; done
ip link set lo up
printf '[Unit]\nRequires=basic.target\nAfter=basic.target\n' > etc/systemd/system/try-units.target
mkdir -p srv/goal srv/trees
pivot_root . mnt
umount -l /mnt
mount --make-rshared /
exec env -i container=try-units PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=try-units.target --log-target=journal --show-status=no
"""

# Asks for the version a hundred times a second over new connections until it is told to stop.
CLIENT = r"""
import http.client, json, signal, time
told, asked, failed, versions = [], 0, [], []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
while not told:
    asked += 1
    try:
        connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=30)
        connection.request("GET", "/version")
        answer = connection.getresponse()
        version = answer.read().decode().strip()
        if answer.status != 200:
            failed.append(f"status {answer.status}")
        elif version not in versions:
            versions.append(version)
        connection.close()
    except OSError as error:
        failed.append(repr(error))
    time.sleep(0.01)
print(json.dumps({"asked": asked, "failed": failed, "versions": versions}))
"""

CONFIG = """
goal = "{goal}"
seeders = ["{seeder}"]
listen = "127.0.0.1:7401"
host = "try"

[apps.web]
exec = ["./demo-service"]
user = "www-data"
sockets = {{ http = "127.0.0.1:80" }}
grace_period = "5s"
health = {{ notify = true, interval = "200ms", min_healthy_time = "500ms" }}
hooks = {{ before_switch = {{ exec = ["sh", "-c", "id -un > /tmp/hook-of-$SHOAL_APP"], user = "nobody" }} }}

[apps.job]
systemd = "job.service"
health = {{ http = "http://127.0.0.1:8081/healthz", interval = "200ms", min_healthy_time = "500ms" }}

[apps.agent]
is_agent = true
health = {{ min_healthy_time = "1s", deadline = "10s", tries = 2 }}
"""

JOB = """[Service]
ExecStart={state}/apps/job/current/demo-service --listen 127.0.0.1:8081
WorkingDirectory={state}/apps/job/current
"""


class Wrong(Exception):
    """What a point found; its text is for people."""


def refuse(message):
    sys.exit(f"try-units: error: {message}")


class Machine:
    """A booted systemd in namespaces."""

    def __init__(self, programs):
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="shoal-units-"))
        self.cgroup = self.own_cgroup()
        self.outer = self.pid = None

    @staticmethod
    def own_cgroup():
        for line in Path("/proc/mounts").read_text().splitlines():
            _, path, kind, *_ = line.split()
            if kind == "cgroup2":
                return Path(path) / f"shoal-units-{os.getpid()}"
        refuse("no cgroup2 file system is mounted; try: mount -t cgroup2 cgroup2 /sys/fs/cgroup")

    def boot(self):
        self.cgroup.mkdir()
        join = 'echo $$ > "$2/cgroup.procs"; exec unshare --pid --mount --uts --ipc --net --cgroup --fork --kill-child '
        command = ["sh", "-euc", join + 'sh -euc "$3" boot "$1"', "sh", self.folder, self.cgroup, BOOT]
        self.outer = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        self.wait("systemd started", self.find_first)
        self.wait("systemd is up", lambda: self.ask("systemctl", "is-system-running") in ("running", "degraded"))

    def find_first(self):
        if self.outer.poll() is not None:
            refuse("systemd did not start; see above")
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        for pid in children:
            if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                self.pid = pid
        return self.pid

    def enter(self, *command):
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", *CLEAN, *map(str, command)]

    def try_run(self, *command):
        return subprocess.run(self.enter(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def run(self, *command):
        ran = self.try_run(*command)
        if ran.returncode:
            raise Wrong(f"{' '.join(map(str, command))}: exit code {ran.returncode}: {ran.stderr.strip()} {ran.stdout.strip()}")
        return ran.stdout

    def ask(self, *command):
        return self.try_run(*command).stdout.strip()

    def path(self, path):
        """A path inside, for us outside."""
        return Path(f"/proc/{self.pid}/root{path}")

    def write(self, path, text, mode=0o644):
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)
        self.path(path).chmod(mode)

    def show(self, unit, name):
        return self.ask("systemctl", "show", "--value", "-p", name, unit)

    def journal(self, unit):
        return self.ask("journalctl", "-o", "cat", "--no-pager", "-u", unit)

    @staticmethod
    def wait(what, look):
        deadline, last = time.monotonic() + PATIENCE_SECONDS, None
        while time.monotonic() < deadline:
            last = look()
            if last:
                return last
            time.sleep(0.1)
        raise Wrong(f"not after {PATIENCE_SECONDS} s: {what}")

    def stop(self):
        if self.outer:
            self.outer.kill()
            self.outer.wait()
        # The processes of a namespace are killed with its first; that takes a moment.
        for _ in range(100):
            groups = [Path(root) for root, _, _ in os.walk(self.cgroup, topdown=False)]
            try:
                for group in groups:
                    group.rmdir()
                break
            except OSError:
                time.sleep(0.1)
        shutil.rmtree(self.folder, ignore_errors=True)


class Load:
    """Somebody who uses the service all the time."""

    def __init__(self, machine):
        command = ["nsenter", "-t", str(machine.pid), "-n", sys.executable, "-c", CLIENT]
        self.client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def end(self):
        self.client.terminate()
        return json.loads(self.client.communicate()[0])


class Trial:
    """The points, in the order in which an administrator would come to them."""

    def __init__(self, machine):
        self.machine, self.failures, self.builds = machine, 0, {}

    def point(self, name, check, is_needed=False):
        started = time.monotonic()
        try:
            said = check()
        except Wrong as wrong:
            self.failures += 1
            print(f"FAIL  {name}: {wrong}", flush=True)
            if is_needed:
                raise Wrong("nothing of the rest can hold") from wrong
            return
        took = time.monotonic() - started
        print(f"ok    {name} ({took:.1f} s){': ' + said if said else ''}", flush=True)

    # What points ask for.

    def row(self, app):
        rows = json.loads(self.machine.run("shoal", "status", "--goal", GOAL, "--json"))["hosts"]
        return next((row for row in rows if row["app"] == app), None)

    def wait_for_row(self, app, accept):
        found = []

        def look():
            found[:] = [self.row(app)]
            return found[0] and accept(found[0]) and found[0]

        try:
            return self.machine.wait(f"{app} is as wanted", look)
        except Wrong as wrong:
            raise Wrong(f"{wrong}; its row: {json.dumps(found[0])}; log: {self.machine.journal('shoal-agent')[-3000:]}")

    def wait_until_running(self, app, build):
        return self.wait_for_row(app, lambda row: row["phase"] == "running" and row["current"] == build and row["is_on_goal"])

    def publish(self, app, name, files):
        """Publishes a tree of `files`: texts, or paths of this machine that are copied."""
        tree = f"/srv/trees/{name}"
        for path, content in files.items():
            if isinstance(content, Path):
                self.machine.path(tree).mkdir(parents=True, exist_ok=True)
                shutil.copy(content, self.machine.path(tree) / path)
            else:
                self.machine.write(f"{tree}/{path}", content, 0o755)
        publish = ["runuser", "-u", "shoal", "--", "shoal", "publish", tree, "--app", app, "--store", STORE, "--json"]
        self.builds[name] = json.loads(self.machine.run(*publish))["build"]
        return self.builds[name]

    def publish_service(self, app, version):
        return self.publish(app, f"{app}-{version}", {"demo-service": self.machine.programs / "shoal", "VERSION": f"{version}\n"})

    def deploy(self, app, build):
        self.machine.run("shoal", "deploy", app, build, "--goal", GOAL)

    def version(self, port):
        return self.machine.ask("curl", "-s", "-m", "5", f"http://127.0.0.1:{port}/version")

    def main_pid(self, unit="shoal-agent"):
        return int(self.machine.show(unit, "MainPID"))

    def is_active(self, unit="shoal-agent"):
        return self.machine.show(unit, "ActiveState") == "active"

    def restarts(self):
        return int(self.machine.show("shoal-agent", "NRestarts"))

    def exe(self, pid):
        return self.machine.ask("readlink", f"/proc/{pid}/exe")

    def program(self):
        """The process of web, as the agent tells of it."""
        return self.wait_for_row("web", lambda row: row["phase"] == "running" and row["pid"])["pid"]

    def check(self, condition, text):
        if not condition:
            raise Wrong(text)

    def unnoticed(self, check):
        """As `check`, which nobody who uses web may notice: the same process, every request answered."""
        def checked():
            before, load = self.program(), Load(self.machine)
            try:
                said = check()
            finally:
                report = load.end()
            after = self.program()
            self.check(after == before, f"the program was process {before} and is {after} now")
            self.check(not report["failed"], f"{len(report['failed'])} requests were lost: {report['failed'][:3]}")
            return f"{report['asked']} requests answered" + (f"; {said}" if said else "")
        return checked

    # The points.

    def install(self):
        machine = self.machine
        for name in PROGRAMS:
            shutil.copy(machine.programs / name, machine.path("/usr/local/bin"))
        for name in ("shoal-agent.service", "shoal-seeder.service"):
            shutil.copy(DIST / name, machine.path("/etc/systemd/system"))
        drop_in = f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}s\nTimeoutStartSec={WATCHDOG_SECONDS}s\n"
        machine.write("/etc/systemd/system/shoal-agent.service.d/try.conf", drop_in)
        machine.write("/etc/systemd/system/job.service", JOB.format(state=STATE))
        machine.run("useradd", "--system", "--no-create-home", "shoal")
        machine.write("/etc/shoal/seeder.env", f"SEEDER_FLAGS=--listen 127.0.0.1:7400 --goal {GOAL}\n")
        machine.run("systemctl", "daemon-reload")
        return machine.run("systemctl", "--version").splitlines()[0]

    def start_seeder(self):
        machine = self.machine
        machine.run("systemctl", "enable", "--now", "shoal-seeder")
        def address():
            return next((line for line in machine.journal("shoal-seeder").splitlines() if line.startswith("/ip4/")), None)
        try:
            seeder = machine.wait("the seeder tells its address", address)
        except Wrong as wrong:
            raise Wrong(f"{wrong}; its log: {machine.journal('shoal-seeder')[-1500:]}")
        self.check(self.is_active("shoal-seeder"), "it is not active")
        self.seeder = seeder
        owner = machine.ask("stat", "-c", "%U", f"/proc/{self.main_pid('shoal-seeder')}")
        self.check(owner == "shoal", f"it runs as {owner}")

    def init(self):
        machine = self.machine
        given = ["--goal", GOAL, "--seeder", self.seeder, "--app", "web", "--exec", "./demo-service", "--user", "www-data"]
        machine.run("shoal-agent", "init", "--output", "/etc/shoal/agent.toml", *given)
        machine.run("shoal-agent", "doctor", "--config", "/etc/shoal/agent.toml")
        machine.write("/etc/shoal/agent.toml", CONFIG.format(goal=GOAL, seeder=self.seeder))
        return machine.run("shoal-agent", "doctor", "--config", "/etc/shoal/agent.toml").splitlines()[-1]

    def start_agent(self):
        self.machine.run("systemctl", "enable", "--now", "shoal-agent")
        self.check(self.is_active(), "systemctl start returned, and the unit is not active")
        self.check(self.machine.show("shoal-agent", "Type") == "notify", "the unit is not Type=notify")
        self.machine.run("shoal-agent", "status")
        return self.machine.show("shoal-agent", "StatusText")

    def first_deploy(self):
        build = self.publish_service("web", "A")
        self.deploy("web", build)
        row = self.wait_until_running("web", build)
        self.check(self.version(80) == "A", "the program does not answer on port 80")
        owner = self.machine.ask("stat", "-c", "%U", f"/proc/{row['pid']}")
        self.check(owner == "www-data", f"the program runs as {owner}")
        group = self.machine.ask("cat", f"/proc/{row['pid']}/cgroup")
        self.check("shoal-agent.service" in group, f"the program is in {group}")
        owner = self.machine.ask("cat", "/tmp/hook-of-web")
        self.check(owner == "nobody", f"the hook ran as {owner!r}")

    def swap(self):
        load = Load(self.machine)
        try:
            build = self.publish_service("web", "B")
            self.deploy("web", build)
            self.wait_until_running("web", build)
            self.machine.wait("the new version answers", lambda: self.version(80) == "B")
        finally:
            report = load.end()
        self.check(not report["failed"], f"{len(report['failed'])} requests were lost: {report['failed'][:3]}")
        self.check(report["versions"] == ["A", "B"], f"answered: {report['versions']}")
        return f"{report['asked']} requests, none lost"

    def unit_app(self):
        for version in ("A", "B"):
            build = self.publish_service("job", version)
            self.deploy("job", build)
            self.wait_until_running("job", build)
            pid = self.main_pid("job.service")
            self.check(build in self.exe(pid), f"job.service runs {self.exe(pid)}")
            self.check(self.version(8081) == version, f"version {self.version(8081)} answers")

    def update_agent(self):
        restarts, pid = self.restarts(), self.main_pid()
        for name in ("agent-1", "agent-2"):
            files = {"shoal-agent": self.machine.programs / "shoal-agent", "VERSION": name}
            build = self.publish("agent", name, files)
            self.deploy("agent", build)
            self.wait_until_running("agent", build)
            self.check(build in self.exe(self.main_pid()), f"{self.exe(self.main_pid())} runs")
            self.check(self.is_active(), "the unit is not active any more")
        self.check((self.main_pid(), self.restarts()) == (pid, restarts), "systemd had to start it again")

    def lost_agent(self):
        """A real agent that looks for its goals where nobody answers."""
        config = "/tmp/lost.toml"
        given = self.machine.path("/etc/shoal/agent.toml").read_text()
        self.machine.write(config, given.replace(GOAL, "etcd://127.0.0.1:1/shoal"))
        said = self.bad_agent("lost", f'exec /usr/local/bin/shoal-agent run --config {config}')
        self.check("not well within" in said, said)
        return said

    def bad_agent(self, name, script, signs=()):
        restarts, seen = self.restarts(), len(self.machine.journal("shoal-agent"))
        self.deploy("agent", self.publish("agent", name, {"shoal-agent": f"#!/bin/sh\n{script}\n"}))
        is_back = lambda row: row["phase"] == "rolled-back" and row["quarantined"] == self.builds[name]
        row = self.wait_for_row("agent", is_back)
        self.check(self.builds["agent-2"] in self.exe(self.main_pid()), f"{self.exe(self.main_pid())} runs")
        self.machine.wait("the unit is active", self.is_active)
        said = self.machine.journal("shoal-agent")[seen:]
        for sign in signs:
            self.check(sign in said, f"the journal does not say {sign!r}: {said}")
        return f"{self.restarts() - restarts} starts by systemd; {row['message']}"

    def freeze(self):
        pid, seen = self.main_pid(), len(self.machine.journal("shoal-agent"))
        os.kill(self.outside(pid), signal.SIGSTOP)
        self.machine.wait("systemd starts another", lambda: self.main_pid() not in (0, pid) and self.is_active())
        said = self.machine.journal("shoal-agent")[seen:]
        self.check("Watchdog timeout" in said, "it was not the watchdog")

    def outside(self, pid):
        """The id that a process inside has here."""
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                ids = next(line for line in status.read_text().splitlines() if line.startswith("NSpid:")).split()[1:]
            except (OSError, StopIteration):
                continue
            if len(ids) > 1 and ids[-1] == str(pid) and str(self.machine.cgroup.name) in self.group_of(ids[0]):
                return int(ids[0])
        raise Wrong(f"no process {pid}")

    @staticmethod
    def group_of(pid):
        try:
            return Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            return ""

    def kill(self):
        pid = self.main_pid()
        os.kill(self.outside(pid), signal.SIGKILL)
        self.machine.wait("systemd starts another", lambda: self.main_pid() not in (0, pid) and self.is_active())

    def reload(self):
        pid = self.main_pid()
        config = self.machine.path("/etc/shoal/agent.toml")
        config.write_text(config.read_text().replace('user = "www-data"', 'user = "www-data"\nkeep_builds = 5'))
        self.machine.run("systemctl", "reload", "shoal-agent")
        self.machine.wait("the log says so", lambda: "apps.web.keep_builds" in self.machine.journal("shoal-agent"))
        self.check(self.is_active() and self.main_pid() == pid, "the unit is not active")

    def restart(self):
        program, job = self.program(), self.main_pid("job.service")
        self.machine.run("systemctl", "restart", "shoal-agent")
        self.check(self.is_active(), "the unit is not active")
        self.check(self.builds["agent-2"] in self.exe(self.main_pid()), f"{self.exe(self.main_pid())} runs")
        self.wait_until_running("web", self.builds["web-B"])
        self.machine.wait("the program answers", lambda: self.version(80) == "B")
        self.check(self.program() != program, "the program was not stopped")
        self.check(self.main_pid("job.service") == job, "the unit of the other app was restarted, too")

    def stop(self):
        job = self.main_pid("job.service")
        self.machine.run("systemctl", "stop", "shoal-agent")
        self.check(self.machine.show("shoal-agent", "ActiveState") == "inactive", "the unit is not inactive")
        self.check(self.machine.show("shoal-agent", "Result") == "success", "it did not end well")
        group = self.machine.path("/sys/fs/cgroup/system.slice/shoal-agent.service/cgroup.procs")
        left = group.read_text().split() if group.exists() else []
        self.check(not left, f"processes are left: {left}")
        self.check(self.version(80) == "", "the program still answers")
        self.check(self.main_pid("job.service") == job, "the unit of the other app was touched")
        self.check(self.row("web")["phase"] == "stopped", f"the row says {self.row('web')['phase']}")

    def start_again(self):
        self.machine.run("systemctl", "start", "shoal-agent")
        self.machine.wait("the program answers", lambda: self.version(80) == "B")
        self.wait_until_running("web", self.builds["web-B"])

    def journals(self):
        said = self.machine.journal("shoal-agent") + self.machine.journal("shoal-seeder")
        self.check("node_agent" in said and "seeder" in said, f"it is not all there: {said[:500]}")
        self.check("\x1b" not in said, "there are colours in it")
        year = time.strftime("%Y-")
        self.check(not any(year in line[:20] for line in said.splitlines()), "there are times in it")
        self.check("panicked" not in said, "there is a panic in it")

    def seeder_again(self):
        pid = self.main_pid("shoal-seeder")
        self.machine.run("systemctl", "reload", "shoal-seeder")
        self.check(self.main_pid("shoal-seeder") == pid and self.is_active("shoal-seeder"), "the reload ended it")
        os.kill(self.outside(pid), signal.SIGKILL)
        self.machine.wait("systemd starts another", lambda: self.main_pid("shoal-seeder") not in (0, pid))
        build = self.publish_service("web", "C")
        self.deploy("web", build)
        self.wait_until_running("web", build)
        self.machine.run("systemctl", "stop", "shoal-seeder")
        self.check(self.machine.show("shoal-seeder", "Result") == "success", "it did not end well")

    def all(self):
        self.point("installed as docs/operations.md says", self.install, is_needed=True)
        self.point("seeder: starts hardened and serves as its user", self.start_seeder, is_needed=True)
        self.point("agent: init and doctor", self.init, is_needed=True)
        self.point("agent: active once it says READY=1", self.start_agent, is_needed=True)
        self.point("deploy: program and hook of other users, a port below 1024", self.first_deploy, is_needed=True)
        self.point("deploy: sockets handed over, no request lost", self.swap)
        self.point("deploy: program of a unit of its own, over D-Bus", self.unit_app)
        self.point("agent updates itself twice in place, program untouched", self.unnoticed(self.update_agent))
        crash = self.unnoticed(lambda: self.bad_agent("crash", "exit 3"))
        self.point("agent that crashes is rolled back, program untouched", crash)
        # The first try takes the place of an agent that was ready, the second is a start of the unit.
        signs = ("Watchdog timeout", "start operation timed out")
        stubborn = "trap '' TERM; while :; do sleep 1; done"
        hang = self.unnoticed(lambda: self.bad_agent("hang", stubborn, signs))
        self.point("agent that hangs is killed and rolled back, program untouched", hang)
        lost = self.unnoticed(self.lost_agent)
        self.point("agent that is never well is rolled back by itself, program untouched", lost)
        self.point("SIGSTOP: watchdog restarts the agent, program lives on", self.unnoticed(self.freeze))
        self.point("kill -9: systemd restarts the agent, program lives on", self.unnoticed(self.kill))
        self.point("systemctl reload: settings read, program untouched", self.unnoticed(self.reload))
        self.point("systemctl restart: programs stopped and started, units left", self.restart)
        self.point("systemctl stop: programs stopped, units left", self.stop)
        self.point("systemctl start: programs run again", self.start_again)
        self.point("seeder: reload, kill -9, serves again, stop", self.seeder_again)
        self.point("journal: no times, no colours, no panic", self.journals)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, default=DIST.parent / "target/release")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    if os.geteuid():
        refuse("needs root, to make namespaces and mounts")
    programs = arguments.programs.resolve()
    for path in [programs / name for name in PROGRAMS] + [Path("/lib/systemd/systemd")]:
        if not path.exists():
            refuse(f"{path} is missing; see --help")
    machine = Machine(programs)
    try:
        machine.boot()
        trial = Trial(machine)
        trial.all()
        if arguments.keep:
            print(f"enter it with: nsenter -t {machine.pid} -a; Enter ends it")
            sys.stdin.readline()
    except Wrong as wrong:
        refuse(str(wrong))
    finally:
        machine.stop()
    print(f"{trial.failures} points failed" if trial.failures else "all points hold")
    return int(trial.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
