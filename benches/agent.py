#!/usr/bin/env python3
"""What a host's agent must withstand, longer than CI has time for, and what it costs while idle.

  benches/agent.py kills [--rounds 300] [--seed N]    kill -9 at random while the goal changes
  benches/agent.py swaps [--swaps 20] [--rate 500]    swaps under load, every lost request counted
  benches/agent.py bad-builds [--pace 4]              builds that go wrong, with longer times
  benches/agent.py idle [--minutes 2] [--hosts 1] [--probe] [--calls] [--json]
                                                   memory and processor time with five apps

The first three are the tests of `cli/tests/end_to_end` with other numbers, optimised, and with the
executable of the agent alone. `idle` runs a seeder and an agent with five programs, lets them settle and
then only reads /proc; with --hosts so many agents are in the swarm, each with its five programs, and the
figures are means per agent; with --probe each app is asked over HTTP every second, with --calls strace
counts an agent's system calls for ten seconds after the measurement. Exits with 1 if something is not as it
should be.
"""
import argparse, json, os, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APPS = 5
RSS_MIB_MAX = 30
CORE_PERCENT_MAX = 0.1
# Longer than goals are looked at often after a change.
SETTLE_SECONDS = 75
GIVE_UP_SECONDS = 60


def refuse(message):
    sys.exit(f"agent: error: {message}")


def cargo(*arguments, **settings):
    environment = dict(os.environ, **{name: str(value) for name, value in settings.items() if value is not None})
    return subprocess.run(["cargo", *arguments], cwd=ROOT, env=environment).returncode


def run_tests(name, **settings):
    """Runs tests of the whole system whose names contain `name`, showing what they say."""
    if cargo("build", "--release", "--locked", "-q", "-p", "node-agent", "-p", "cli"):
        refuse("the build failed")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    agent = (target / "release/shoal-agent").resolve()
    command = ["test", "--release", "--locked", "-q", "-p", "cli", "--test", "main", "--", name, "--nocapture"]
    return cargo(*command, SHOAL_TEST_AGENT=agent, **settings)


class Bed:
    """A seeder and agents with APPS programs each in a temporary folder."""

    def __init__(self, programs, folder, probe, hosts=1):
        self.programs, self.folder, self.processes = programs, folder, []
        for name in ("goal", "store", "bin"):
            (folder / name).mkdir()
        (folder / "bin/demo-service").symlink_to(programs / "shoal")
        self.goal = f"file://{folder}/goal"
        address = self.start_seeder()
        self.agents = [self.start_agent(f"idle{number}", address, probe) for number in range(hosts)]
        self.agent = self.agents[0]
        for number in range(APPS):
            tree = folder / f"build-{number}"
            tree.mkdir()
            (tree / "VERSION").write_text(f"{number}\n")
            app = f"app{number}"
            published = self.shoal("publish", tree, "--app", app, "--store", folder / "store", "--json")
            self.shoal("deploy", app, json.loads(published)["build"], "--goal", self.goal)
        self.wait_until_running(hosts * APPS)

    def start_agent(self, name, seeder, probe):
        folder = self.folder
        settings = [f'host = "{name}"\nstate = "{folder}/{name}"\ngoal = "{self.goal}"\nseeders = ["{seeder}"]']
        settings.append('listen = "127.0.0.1:0"')
        for number in range(APPS):
            port = free_port()
            exec_line = json.dumps([f"{folder}/bin/demo-service", "--listen", f"127.0.0.1:{port}"])
            settings.append(f"[apps.app{number}]\nexec = {exec_line}")
            if probe:
                settings.append(f'[apps.app{number}.health]\nhttp = "http://127.0.0.1:{port}/healthz"')
        path = folder / f"{name}.toml"
        path.write_text("\n".join(settings) + "\n")
        return self.start("shoal-agent", "--config", path)

    def start(self, program, *arguments, **options):
        log = open(self.folder / f"{program}.log", "a")
        command = [self.programs / program, *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, **options)
        self.processes.append(process)
        return process

    def start_seeder(self):
        arguments = ["--listen", "127.0.0.1:0", "--store", self.folder / "store", "--state", self.folder / "seeder"]
        seeder = self.start("shoal-seeder", *arguments, stdout=subprocess.PIPE, text=True)
        return seeder.stdout.readline().strip() or self.fail("the seeder did not start")

    def shoal(self, *arguments):
        ran = subprocess.run([self.programs / "shoal", *map(str, arguments)], capture_output=True, text=True)
        return ran.stdout if ran.returncode == 0 else self.fail(ran.stderr.strip())

    def wait_until_running(self, count):
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            rows = json.loads(self.shoal("status", "--goal", self.goal, "--json"))["hosts"]
            if len(rows) == count and all(row["phase"] == "running" and row["is_on_goal"] for row in rows):
                return
            time.sleep(0.2)
        self.fail("the programs do not run: " + json.dumps(rows))

    def fail(self, reason):
        log = self.folder / "shoal-agent.log"
        if log.exists():
            sys.stderr.write(log.read_text()[-2000:])
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        refuse(reason)

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def free_port():
    import socket
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def tasks(pid):
    return [task for task in Path(f"/proc/{pid}/task").iterdir()]


def used(pid):
    """Nanoseconds on a processor, and times that a thread went to sleep by itself, of each thread by name."""
    found = {}
    for task in tasks(pid):
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        busy, sleeps = int((task / "schedstat").read_text().split()[0]), int(status["voluntary_ctxt_switches"])
        before = found.get(status["Name"], (0, 0))
        found[status["Name"]] = (before[0] + busy, before[1] + sleeps)
    return found


def used_by_all(pids):
    """As `used`, of several processes together."""
    total = {}
    for found in map(used, pids):
        for name, numbers in found.items():
            total[name] = tuple(map(sum, zip(total.get(name, (0, 0)), numbers)))
    return total


def memory_mib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return {name: int(status.split(f"{name}:")[1].split()[0]) / 1024 for name in ("VmRSS", "VmHWM", "RssAnon")}


def idle(arguments):
    programs = Path(arguments.programs).resolve()
    if not (programs / "shoal-agent").exists():
        refuse(f"{programs}/shoal-agent is missing; run: cargo build --release, or give --programs")
    bed = Bed(programs, Path(tempfile.mkdtemp(prefix="shoal-idle-")), arguments.probe, arguments.hosts)
    pids = [agent.pid for agent in bed.agents]
    try:
        time.sleep(SETTLE_SECONDS)
        before, started = used_by_all(pids), time.monotonic()
        time.sleep(arguments.minutes * 60)
        seconds, after, memory = time.monotonic() - started, used_by_all(pids), memory_mib(pids[0])
        change = {name: [(now - was) / len(pids) for now, was in zip(after[name], before.get(name, (0, 0)))] for name in after}
        result = {
            "apps": APPS, "hosts": len(pids), "probe": arguments.probe, "seconds": round(seconds), "rss_mib": round(memory["VmRSS"], 1),
            "rss_anonymous_mib": round(memory["RssAnon"], 1), "peak_mib": round(memory["VmHWM"], 1),
            "core_percent": round(sum(busy for busy, _ in change.values()) / seconds / 1e7, 4),
            "sleeps_per_second": round(sum(sleeps for _, sleeps in change.values()) / seconds, 2),
            "threads": {name: {"core_percent": round(busy / seconds / 1e7, 4), "sleeps_per_second": round(sleeps / seconds, 2)}
                        for name, (busy, sleeps) in sorted(change.items())},
        }
        print(json.dumps(result) if arguments.json else json.dumps(result, indent=1))
        if arguments.calls:
            strace = ["strace", "-c", "-f", "-p", str(pids[0])]
            counting = subprocess.Popen(strace, stderr=subprocess.PIPE, text=True)
            time.sleep(10)
            counting.send_signal(signal.SIGINT)
            print(counting.communicate()[1])
    finally:
        bed.stop()
        shutil.rmtree(bed.folder, ignore_errors=True)
    return int(result["rss_mib"] >= RSS_MIB_MAX or result["core_percent"] >= CORE_PERCENT_MAX)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    kills = commands.add_parser("kills")
    kills.add_argument("--rounds", type=int, default=300)
    kills.add_argument("--seed", type=int)
    swaps = commands.add_parser("swaps")
    swaps.add_argument("--swaps", type=int, default=20)
    swaps.add_argument("--rate", type=int, default=500)
    bad = commands.add_parser("bad-builds")
    bad.add_argument("--pace", type=int, default=4)
    waits = commands.add_parser("idle")
    waits.add_argument("--minutes", type=float, default=2)
    waits.add_argument("--hosts", type=int, default=1)
    waits.add_argument("--programs", default=ROOT / "target/release")
    for flag in ("--probe", "--calls", "--json"):
        waits.add_argument(flag, action="store_true")
    arguments = parser.parse_args()
    if arguments.command == "kills":
        return run_tests("end_to_end::kills", SHOAL_TEST_ROUNDS=arguments.rounds, SHOAL_TEST_SEED=arguments.seed)
    if arguments.command == "swaps":
        return run_tests("end_to_end::swaps", SHOAL_TEST_SWAPS=arguments.swaps, SHOAL_TEST_RATE=arguments.rate)
    if arguments.command == "bad-builds":
        return run_tests("end_to_end::bad_builds", SHOAL_TEST_PACE=arguments.pace)
    return idle(arguments)


if __name__ == "__main__":
    sys.exit(main())
