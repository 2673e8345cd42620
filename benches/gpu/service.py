"""Measures the whole service on this machine: a broker, PostgreSQL and `moodstream run` on a topic that was fed beforehand."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

from processes import Background, StepFailed, last_line, run_step

TOPIC = "posts"
PARTITIONS = 8
# If no stage is busier than this, none of them limits the rate.
BUSY = 0.5

# A proxy of the environment would not reach this machine's own ports.
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def samples(text):
    """Parses the Prometheus text format: a dictionary from a metric's name with its labels to its value."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            try:
                found[name] = float(value)
            except ValueError:
                continue
    return found


def busy_shares(before, after, seconds, sessions, readers):
    """Returns each stage's busy time between two scrapes as a share of the time that it had, from 0 to 1."""
    def of(name, workers):
        return (after.get(name, 0.0) - before.get(name, 0.0)) / seconds / workers

    return {
        "decoding and cleaning": of('moodstream_stage_seconds_sum{stage="read"}', readers),
        "tokenizer": of("moodstream_tokenize_seconds_sum", 1),
        "sessions": of("moodstream_inference_seconds_sum", sessions),
        "transactions": of("moodstream_transaction_seconds_sum", 1),
    }


def binding(shares):
    """Names the stage that limits the rate: the busiest one."""
    stage = max(shares, key=shares.get)
    return stage if shares[stage] >= BUSY else "none of the stages (the broker, or waiting between stages)"


def inserted(scrape):
    return scrape.get('moodstream_outcomes_total{outcome="inserted"}', 0.0)


def steady(scrapes):
    """Selects the first and last of some (time, scrape) pairs between which the service stored posts continuously, if they are
    at least a second apart. The last scrapes, which may show no progress, are not used."""
    started = [pair for pair in scrapes if inserted(pair[1]) > 0]
    if not started:
        return None
    end = max(inserted(scrape) for _, scrape in started)
    last = next(pair for pair in started if inserted(pair[1]) == end)
    return (started[0], last) if last[0] - started[0][0] >= 1 else None


def write_posts(path, texts, count, now):
    """Writes posts with distinct ids: the texts in turn, at times of the last ten minutes."""
    texts = [json.dumps(text) for text in pathlib.Path(texts).read_text(encoding="utf-8").splitlines()]
    with open(path, "w", encoding="utf-8") as out:
        for number in range(count):
            created = now - 600 + 600 * number // count
            out.write(f'{{"id":"{number}","created_at":{created},"lang":"en","text":{texts[number % len(texts)]}}}\n')


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(condition, what, process, log, deadline):
    while not condition():
        if process.poll() is not None:
            raise StepFailed(f"{what} ended with {process.returncode}: {last_line(log)}")
        if deadline() <= 0:
            raise StepFailed(f"{what} did not answer in time")
        time.sleep(0.05)


def answers(port):
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def processor_seconds(pid):
    """Returns the processor time of a process and its children that still run."""
    total = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(") ", 1)[1].split()
        except (OSError, IndexError):
            continue
        if stat.parent.name == str(pid) or fields[1] == str(pid):
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


class Servers:
    """A broker whose topic has posts, and a PostgreSQL cluster, in a temporary folder."""

    def __init__(self, background, scratch, kit, deadline):
        self.background, self.kit, self.log, self.deadline = background, kit, kit.log("service"), deadline
        scratch.chmod(0o711)
        self.broker_port, self.postgres_port = free_port(), free_port()
        found = sorted((kit.work / "postgres").glob("*/*/bin/postgres"))
        if not found:
            raise StepFailed("no PostgreSQL: carry .gpu/3 too")
        self.folder = scratch / "postgres"
        # Copied, because another user can't reach the original if it is below root's home.
        shutil.copytree(kit.work / "postgres", self.folder)
        self.bin = self.folder / found[0].parent.relative_to(kit.work / "postgres")
        self.start_postgres(scratch / "data")
        self.start_broker()

    def start_broker(self):
        url = f"tcp://127.0.0.1:{self.broker_port}"
        self.broker = self.background.start(
            [self.kit.bin / "tansu", "broker", "--storage-engine", "memory://tansu/", "--listener-url", url,
             "--advertised-listener-url", url], self.kit.log("broker"))
        wait_for(lambda: answers(self.broker_port), "the broker", self.broker, self.kit.log("broker"), self.deadline)

    def start_postgres(self, data):
        data.mkdir()
        if os.geteuid() == 0:
            os.chown(data, 65534, 65534)
        log = self.kit.log("postgres")
        create = self.background.start(
            [self.bin / "initdb", "--username=moodstream", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync",
             "-D", data / "cluster"], log, nobody=True)
        if create.wait(max(self.deadline(), 1)) != 0:
            raise StepFailed(f"initdb failed: {last_line(log)}")
        settings = {"port": self.postgres_port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
                    "shared_buffers": "512MB", "max_wal_size": "4GB"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        # SIGINT is the shutdown that does not wait for clients.
        self.postgres = self.background.start(
            [self.bin / "postgres", "-D", data / "cluster", *options], log, signal.SIGINT, nobody=True)
        wait_for(lambda: self.sql("SELECT 1"), "PostgreSQL", self.postgres, log, self.deadline)

    def sql(self, statement):
        """Executes a statement and returns its result, or an empty text if that fails."""
        done = subprocess.run(
            [self.bin / "psql", "-h", "127.0.0.1", "-p", str(self.postgres_port), "-U", "moodstream", "-d", "postgres",
             "-qAtc", statement], capture_output=True, text=True, timeout=max(self.deadline(), 1))
        return done.stdout.strip()

    def settings(self, name):
        """Returns the settings for a run with its own group and database."""
        return {
            "kafka__brokers": f"127.0.0.1:{self.broker_port}", "kafka__topics": TOPIC, "kafka__group": name,
            "database__url": f"postgres://moodstream@127.0.0.1:{self.postgres_port}/{name}",
            "http__page": "off", "log__level": "warn",
        }

    def feed(self, posts):
        start = time.monotonic()
        run_step([self.kit.bin / "moodstream", "feed", posts, "--topic", TOPIC, "--create-partitions", PARTITIONS],
                 self.deadline(), self.log, self.kit.environment(cpu=True, **self.settings("feed")))
        return time.monotonic() - start

    def measure(self, name, model, settings, seconds):
        """Runs the service with a model on the posts of the topic, for `seconds` at most from its first transaction."""
        self.sql(f"CREATE DATABASE {name}")
        http = free_port()
        env = self.kit.environment(**self.settings(name), **settings, model__path=model, http__listen=f"127.0.0.1:{http}",
                                   classify__cache_entries=0)
        watched = {"service": None, "broker": self.broker, "postgres": self.postgres}
        scrapes, used = [], []
        started = time.monotonic()
        with tempfile.TemporaryFile() as out, Background() as background:
            service = background.start([self.kit.bin / "moodstream", "run", "--until-caught-up"], self.log, env=env, out=out)
            watched["service"] = service
            end = timely = None
            while service.poll() is None:
                if self.deadline() <= 0:
                    raise StepFailed(f"took longer than its limit, after {len(scrapes)} scrapes")
                if timely is None and end is not None and time.monotonic() >= end:
                    service.send_signal(signal.SIGTERM)
                    timely = len(scrapes)
                scrape = self.scrape(http)
                if scrape is not None:
                    now = time.monotonic()
                    scrapes.append((now, scrape))
                    used.append({name: processor_seconds(process.pid) for name, process in watched.items()})
                    if end is None and inserted(scrape) > 0:
                        end = now + seconds
                time.sleep(0.1)
            out.seek(0)
            printed = out.read().decode(errors="replace")
        if service.returncode != 0:
            raise StepFailed(f"the service ended with {service.returncode}: {last_line(self.log)}")
        summary = json.loads(printed.strip().splitlines()[-1])
        return evaluate(summary, scrapes, used, timely, started, int(settings["classify__sessions"]))

    @staticmethod
    def scrape(port):
        try:
            with LOCAL.open(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
                return samples(answer.read().decode())
        except OSError:
            return None


def evaluate(summary, scrapes, used, timely, started, sessions):
    """Returns the rate and the busy shares between the first transaction and the last, without the start; for a short run, on
    the whole. The first `timely` scrapes were taken before the service was stopped; in the others it finishes its work."""
    pairs = steady(scrapes[:timely]) or steady(scrapes)
    if pairs:
        (start, before), (end, after) = pairs
        seconds = end - start
        rate = (inserted(after) - inserted(before)) / seconds
        first, last = (next(use for use, (taken, _) in zip(used, scrapes) if taken == at) for at in (start, end))
        cores = {name: max(last[name] - first[name], 0.0) / seconds for name in last}
    elif scrapes:
        before, after = {}, scrapes[-1][1]
        seconds, rate = summary["seconds"], summary["posts_per_second"]
        cores = {name: used[-1][name] / max(scrapes[-1][0] - started, seconds) for name in used[-1]}
    else:
        raise StepFailed("the service ended before its metrics could be read")
    # As many readers as the service has.
    readers = min(max(len(os.sched_getaffinity(0)), 2), 8)
    shares = busy_shares(before, after, max(seconds, 1e-9), sessions, readers)
    return {
        "posts_per_second": rate, "seconds": seconds, "busy": shares, "binds": binding(shares), "cores": cores,
        "inserted": summary["inserted"], "texts_cached": summary["texts_cached"], "padding_share": summary["padding_share"],
    }


def run_service(kit, runs, count, deadline):
    """Measures the service for each (name, model, settings, seconds); returns the results by name."""
    result = {}
    with tempfile.TemporaryDirectory(prefix="moodstream-gpu-") as scratch, Background() as background:
        scratch = pathlib.Path(scratch)
        write_posts(scratch / "posts.jsonl", kit.texts, count, int(time.time()))
        servers = Servers(background, scratch, kit, deadline)
        fed = servers.feed(scratch / "posts.jsonl")
        for number, (name, model, settings, seconds) in enumerate(runs):
            try:
                result[name] = servers.measure(f"run{number}", model, settings, seconds)
            except (StepFailed, OSError, ValueError, KeyError, IndexError, subprocess.TimeoutExpired) as error:
                result[name] = {"error": str(error) or type(error).__name__}
    if all("error" in run for run in result.values()):
        raise StepFailed("; ".join(run["error"] for run in result.values()))
    return {"posts": count, "fed_in_seconds": fed, "runs": result}
