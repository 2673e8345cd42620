"""Runs programs with time limits."""

import os
import re
import signal
import subprocess


class StepFailed(Exception):
    """A step failed; the message says why. `output` is what the program had printed until then."""

    output = ""


def last_line(log, start=0):
    """Returns the last line of a log after a position that names an error, or else the last line."""
    with open(log, "rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").strip().splitlines() or ["no message"]
    named = [line for line in lines[-20:] if re.search(r"\berror\b|^moodstream", line, re.IGNORECASE)]
    line = (named or lines)[-1].strip()
    # ONNX Runtime puts the cause last.
    return line if len(line) <= 400 else f"{line[:120]} ... {line[-270:]}"


def run_step(command, seconds, log, env=None, stdin=None):
    """Runs a command with a time limit; returns its standard output. Standard error goes to `log`."""
    with open(log, "ab") as errors:
        start = errors.tell()
        process = subprocess.Popen(
            [str(part) for part in command], stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            env=env, start_new_session=True,
        )
        failed = None
        try:
            out, _ = process.communicate(timeout=max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            failed = StepFailed(f"took longer than its {seconds:.0f} s")
    out = out.decode(errors="replace")
    if failed is None and process.returncode != 0:
        failed = StepFailed(f"exit status {process.returncode}: {last_line(log, start)}")
    if failed is not None:
        failed.output = out
        raise failed
    return out


class Background:
    """Programs that run until the end of a `with` block. Their output goes to a log each."""

    def __init__(self):
        self.running = []

    def __enter__(self):
        return self

    def start(self, command, log, stop=signal.SIGTERM, env=None, nobody=False, out=None):
        """Starts a program. With `nobody`, it runs as an unprivileged user if this process is root."""
        # PostgreSQL refuses to run as root.
        user = {"user": 65534, "group": 65534, "extra_groups": []} if nobody and os.geteuid() == 0 else {}
        with open(log, "ab") as errors:
            process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out or errors, stderr=errors,
                env=env, cwd="/", start_new_session=True, **user,
            )
        self.running.append((process, stop))
        return process

    def __exit__(self, *_):
        for process, stop in reversed(self.running):
            if process.poll() is None:
                process.send_signal(stop)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
