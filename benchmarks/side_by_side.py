"""Two implementations of one model, timed in turn: each in its own interpreter, with the same allocator and threads.

A child is a script that calls `serve(tasks)`; the parent asks the children alternately for a few repetitions of each
task, so that a machine that slows down slows down both, and reports medians and the peak resident memory.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}

# The tasks of benchmarks/architectures.py, and which of its eleven frames, ten molecules and a crystal, each takes.
SIZES = {
    "one frame": slice(0, 1),
    "batch of 10": slice(0, 10),
    "crystal of 200": slice(10, 11),
    "training step of 5": slice(0, 5),
}
TASKS = tuple(SIZES)


def serve(tasks: Mapping[str, Callable[[], Any]]) -> None:
    """Answers lines "TASK REPETITIONS" on stdin with lines of JSON: wall and CPU ms, the task's value, peak MiB."""
    for line in sys.stdin:
        name, repetitions = line.rsplit(maxsplit=1)
        times, cpu, value = [], [], None
        for _ in range(int(repetitions)):
            begin, busy = time.perf_counter(), time.process_time()
            value = tasks[name]()
            times.append(1e3 * (time.perf_counter() - begin))
            cpu.append(1e3 * (time.process_time() - busy))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"times": times, "cpu": cpu, "value": value, "peak": peak}), flush=True)


class Child:
    """A script that serves tasks."""

    def __init__(self, command: Sequence[str], threads: int) -> None:
        environment = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, task: str, repetitions: int) -> dict[str, Any]:
        """Times of `repetitions` runs of a task. Lines that are not JSON are the packages' own chatter."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{task} {repetitions}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith('{"times"'):
                return json.loads(line)
        raise SystemExit(f"a child ended with exit code {self.process.wait()}")

    def stop(self) -> None:
        """Ends the child."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(
    commands: Mapping[str, Sequence[str]], tasks: Sequence[str], rounds: int = 7, threads: int = 2, repetitions: int = 3
) -> dict[str, dict[str, dict[str, Any]]]:
    """Median wall and CPU time in ms, last value and peak MiB of each task by each side: result[task][side].

    Each task has fresh children, so that its peak memory is its own. The first round is not timed. On a machine with
    other work, the CPU time with one thread is the number to trust.
    """
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for task in tasks:
        children = {side: Child(command, threads) for side, command in commands.items()}
        answers: dict[str, list[dict[str, Any]]] = {side: [] for side in commands}
        for _ in range(rounds + 1):
            for side, child in children.items():
                answers[side].append(child.ask(task, repetitions))
        for child in children.values():
            child.stop()
        results[task] = {side: _summary(given) for side, given in answers.items()}
    return results


def _summary(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    timed = answers[1:] or answers
    wall, cpu = ([t for a in timed for t in a[key]] for key in ("times", "cpu"))
    last = answers[-1]
    return {"ms": statistics.median(wall), "cpu": statistics.median(cpu), "value": last["value"], "peak": last["peak"]}


def table(results: Mapping[str, Mapping[str, Mapping[str, Any]]], reference: str) -> str:
    """A markdown table: one row per task and side, with the ratio of the reference's time to the side's."""
    lines = ["| task | side | ms | times faster | CPU ms | times less | peak MiB |", "|---|---|---|---|---|---|---|"]
    for task, sides in results.items():
        slow = sides.get(reference, {"ms": float("nan"), "cpu": float("nan")})
        lines += [
            f"| {task} | {side} | {entry['ms']:.1f} | {slow['ms'] / entry['ms']:.1f} | {entry['cpu']:.1f} "
            f"| {slow['cpu'] / entry['cpu']:.1f} | {entry['peak']:.0f} |"
            for side, entry in sides.items()
        ]
    return "\n".join(lines)
