#!/usr/bin/env python3
"""First contact with a GPU: one call of at most ten minutes, from a folder that pack.py made.

    python3 run.py CALL OUT [--deadline 570] [--from STEP] [--size 513] [--batches 1,8,16] [--repeats 200]

CALL is 1 (is it right), 2 (how fast is it) or 3 (what the profiler and the sanitizers say); steps.py lists the steps.
Nothing but Python's standard library is needed here; a step whose tool is missing is listed as not run.

OUT gets three files, whole after every step: log.txt (what every step printed, and how it ended), summary.csv (a line a
step) and results.tar.gz (the files that steps wrote). Each step is a process group of its own, killed at its limit. A
step that is to be retried and fails is run again under compute-sanitizer's memcheck, and with CUDA_LAUNCH_BLOCKING=1.
A step starts only while its expected seconds fit in what is left; the rest is listed as not run, and `--from STEP` goes
on there in a later call. The exit code is 1 where a step failed, 0 otherwise.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import steps

FILE_BYTES = 16 << 20
# Of what one step prints: the beginning and the end.
HEAD_BYTES, TAIL_BYTES = 32 << 10, 96 << 10


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("call", type=int, choices=sorted(steps.CALLS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--deadline", type=float, default=570, help="seconds for the whole call")
    parser.add_argument("--from", dest="first", metavar="STEP", help="leave out the steps before this one, but for what others need")
    parser.add_argument("--size", type=int, default=513, help="height and width of the pictures")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 16])
    parser.add_argument("--repeats", type=int, default=200, help="of what is timed")
    return parser.parse_args()


class Runner:
    def __init__(self, out, deadline):
        self.out, self.end = out, time.monotonic() + deadline
        self.work = Path(tempfile.mkdtemp(prefix="first_contact-"))
        # What steps write here comes back.
        self.results = self.work / "results"
        self.results.mkdir()
        self.packed = None
        self.child = None
        self.failed = False
        out.mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        (out / "summary.csv").write_text("step,result,seconds,expected_seconds\n")
        (out / "log.txt").write_text("")

    def stop(self, number, _frame):
        self.kill()
        shutil.rmtree(self.work, ignore_errors=True)
        os._exit(128 + number)

    def kill(self):
        if self.child is not None:
            try:
                os.killpg(self.child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def left(self):
        return self.end - time.monotonic()

    def append(self, name, text):
        path = self.out / name
        room = FILE_BYTES - path.stat().st_size
        with open(path, "a") as file:
            file.write(text if len(text.encode()) <= room else "")

    def note(self, name, result, seconds, expected):
        """A line of the summary, and on the terminal."""
        line = f"{name},{result},{seconds:.1f},{expected}\n"
        self.append("summary.csv", line)
        print(line, end="", flush=True)

    def once(self, name, command, environment, limit):
        """Runs one process to its end or its limit; returns its exit code, None where it was killed, and its output."""
        start, printed = time.monotonic(), self.work / "printed"
        with open(printed, "wb") as file:
            try:
                self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                                              cwd=self.work, env=dict(os.environ, **environment), start_new_session=True)
            except OSError as error:
                return 127, str(error).encode(), 0.0
        code = None
        try:
            code = self.child.wait(limit)
        except subprocess.TimeoutExpired:
            pass
        # What it started and left behind as well.
        self.kill()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.append("log.txt", f"{name}: its process does not end even when killed\n")
        self.child = None
        seconds = time.monotonic() - start
        said = printed.read_bytes()
        ended = f"killed at its limit of {limit:.0f} s" if code is None else f"exit {code}"
        variables = "".join(f"{key}={value} " for key, value in environment.items())
        self.append("log.txt", f"== {name}\n$ {variables}{' '.join(map(str, command))}\n{shortened(said)}\n"
                               f"== {name}: {ended}, {seconds:.1f} s\n\n")
        return code, said, seconds

    def step(self, step):
        tool = step.needs or str(step.command[0])
        if shutil.which(tool) is None:
            return self.note(step.name, f"not run: no {Path(tool).name} here", 0, step.expected)
        if self.left() < step.expected:
            return self.note(step.name, "not run: deadline", 0, step.expected)
        code, said, seconds = self.once(step.name, step.command, step.environment, min(step.limit, self.left()))
        if code == 0 and step.save:
            (self.results / step.save).parent.mkdir(parents=True, exist_ok=True)
            (self.results / step.save).write_bytes(said)
        result = "passed" if code == 0 else "hung" if code is None else f"failed ({code})"
        self.note(step.name, result, seconds, step.expected)
        if code != 0:
            self.failed = True
            if step.retry:
                self.retry(step)
        self.pack()

    def retry(self, step):
        """What a failure looks like to the sanitizer, and with every launch waited for."""
        memcheck = steps.sanitizer("memcheck", step.command)
        blocking = {"CUDA_LAUNCH_BLOCKING": "1"}
        for suffix, command, more in [("memcheck", memcheck, {}), ("blocking", step.command, blocking)]:
            name = f"{step.name} [{suffix}]"
            if shutil.which(str(command[0])) is None:
                self.note(name, f"not run: no {command[0]} here", 0, step.expected)
            elif self.left() < step.expected:
                self.note(name, "not run: deadline", 0, step.expected)
            else:
                limit = min(2 * step.limit, 60, self.left())
                code, _, seconds = self.once(name, command, {**step.environment, **more}, limit)
                result = "passed" if code == 0 else "hung" if code is None else f"failed ({code})"
                self.note(name, result, seconds, step.expected)

    def pack(self):
        """results.tar.gz anew, where a file of it has changed; the largest files are left out until it fits."""
        files = sorted(path for path in self.results.rglob("*") if path.is_file())
        state = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        if state == self.packed or not files:
            return
        self.packed = state
        while True:
            new = self.work / "results.tar.gz"
            with tarfile.open(new, "w:gz", compresslevel=2) as archive:
                for path in files:
                    archive.add(path, path.relative_to(self.results))
            if new.stat().st_size <= FILE_BYTES:
                break
            largest = max(files, key=lambda path: path.stat().st_size)
            files.remove(largest)
            self.append("log.txt", f"{largest.relative_to(self.results)} is left out: results.tar.gz is full\n")
        # Whole at any moment, and under no other name in OUT.
        part = self.out / "results.tar.gz.part"
        shutil.copyfile(new, part)
        os.replace(part, self.out / "results.tar.gz")


def shortened(said):
    if len(said) > HEAD_BYTES + TAIL_BYTES:
        left_out = len(said) - HEAD_BYTES - TAIL_BYTES
        said = said[:HEAD_BYTES] + f"\n[{left_out} bytes left out]\n".encode() + said[-TAIL_BYTES:]
    return said.decode(errors="replace").rstrip("\n")


def main():
    args = arguments()
    runner = Runner(args.out.resolve(), args.deadline)
    here = Path(__file__).resolve().parent
    with tarfile.open(here / "programs.tar.xz") as archive:
        archive.extractall(runner.work)
    started = args.first is None
    for step in steps.CALLS[args.call](here, runner.work, args):
        started = started or step.name == args.first
        if started or step.always:
            runner.step(step)
    shutil.rmtree(runner.work, ignore_errors=True)
    if not started:
        sys.exit(f"--from: no step {args.first} in call {args.call}")
    sys.exit(1 if runner.failed else 0)


if __name__ == "__main__":
    main()
