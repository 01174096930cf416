# SPDX-License-Identifier: Apache-2.0
"""A benchmark from its options to its numbers: start everyone, let each find its fastest setting,
see that all do the same, take turns, and say what came out.
"""

import math
import tempfile
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .contender import SEARCH_SHARE, CannotTakePart, Contender, Task
from .machine import busy_share, describe_machine
from .options import Options
from .processes import ContenderProcess
from .report import settings
from .subjects import Subject, subject_of
from .turns import ratio_of, speed_of, take_turns

OURS = "ours"
DOING = {  # by the method of a contender that does it
    "profile": "profiling a step of everyone",
    "rest": "freeing what everyone holds",
    "extras": "measuring what is told beside the turns",
}
UNTOLD = ("outcome", "seconds_per_step", "num_warm_up_steps")  # of what a contender settled for


def run_benchmark(
    options: Options,
    *,
    command: str = "",
    say: Callable[[str], None] = lambda line: None,
    host: type[ContenderProcess] = ContenderProcess,
) -> dict[str, Any]:
    """Runs a benchmark.

    Args:
        options: what is asked.
        command: that asked for it, to be written down.
        say: takes lines that tell how far it is.
        host: where each contender works; anything that is made and called as a `ContenderProcess`.

    Returns:
        What is written as JSON: `subject`, `options`, `command`, `measured_at`, `machine`, `ours`,
        `peers` by name, `missing` peers with the reason, `limits` by name, `task`. A contender has
        `images_per_second` (median), its `spread` (first and third quartile), `turns`,
        `seconds_per_step`, `peak_memory_bytes`, `settings`, `searched`, `flops_per_second` (of our
        matrix products), `limit_share` (of the first of the limits); a peer and a limit also
        `ratio`, ours over it by pairs of neighbouring turns; a peer that does the same as we do
        also `difference`, of its outcome from ours.

    Raises:
        ValueError: where ours cannot take part, or a peer does something else than we do.
    """
    subject = subject_of(options)
    busy = busy_share()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        task = Task(options=options, folder=folder)
        say(f"writing the {subject.shared} that everyone opens")
        missing, about = subject.share(task)
        machine = describe_machine(torch.device(options.device or "cpu"))
        peers = {name: subject.peers[name] for name in task.options.peers if name not in missing}
        contenders = {OURS: subject.ours, **peers, **subject.limits}
        say(outline(contenders, options))
        leave_out = partial(leave_peer_out, subject=subject, missing=missing, say=say)
        processes, settled = enter(contenders, host, task, leave_out, stack, say)
        differences = compare(subject, processes, settled, options)
        own, pairs, peaks = race(processes, settled, options, leave_out, say)
        profiles = ask("profile", processes, say) if options.profile else {}
        ask("rest", processes, say)
        extras = ask("extras", processes, say)
    told = {
        name: {
            **speed_of(own if name == OURS else [theirs for _, theirs in pairs[name]]),
            "seconds_per_step": None,
            "peak_memory_bytes": peaks[name],
            **{key: value for key, value in found.items() if key not in UNTOLD},
            **extras.get(name, {}),
            **({"profile": profiles[name]} if name in profiles else {}),
        }
        for name, found in settled.items()
    }
    for name, found in settled.items():
        per_step = found["images_per_step"]
        told[name]["seconds_per_step"] = per_step / told[name]["images_per_second"]
        if name != OURS:
            told[name]["ratio"] = ratio_of(pairs[name])
            told[name] |= differences.get(name, {})
    flops_per_image = next(
        (found["flops_per_image"] for found in told.values() if "flops_per_image" in found), None
    )
    if flops_per_image is not None:
        for found in told.values():
            found["flops_per_second"] = flops_per_image * found["images_per_second"]
    limits = {name: told.pop(name) for name in subject.limits if name in told}
    ours = told.pop(OURS)
    share = next(iter(limits.values()))["ratio"]["median"]
    ours["limit_share"] = share
    for peer in told.values():
        peer["limit_share"] = share / peer["ratio"]["median"]
    return {
        "subject": options.subject,
        "command": command,
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "options": asdict(options),
        "task": about,
        "machine": {**machine, "busy_share": [busy, busy_share()]},
        OURS: ours,
        "peers": told,
        "missing": missing,
        "limits": limits,
    }


def outline(contenders: Collection[str], options: Options) -> str:
    """Returns in words what will be done, and how long it takes at least.

    How many settings a contender tries, and how long compiling them takes, it knows alone.
    """
    turns = 2 * options.turns * (len(contenders) - 1) * options.seconds
    search = SEARCH_SHARE * options.seconds
    return (
        f"{', '.join(contenders)}: each looks for its fastest setting, {search:.3g} s and its "
        f"preparation for each that it tries; then turns of about {turns / 60:.1f} minutes in all"
    )


def enter(
    contenders: dict[str, type[Contender]],
    host: type[ContenderProcess],
    task: Task,
    leave_out: Callable[[str, CannotTakePart], None],
    stack: ExitStack,
    say: Callable[[str], None],
) -> tuple[dict[str, ContenderProcess], dict[str, dict]]:
    """Starts everyone, and lets each find its fastest setting, one after the other.

    Args:
        contenders: who there is, by name, ours first.
        host: where each of them works.
        task: what they do.
        leave_out: takes those that cannot take part, with the reason.
        stack: ends the processes.
        say: takes lines that tell how far it is.

    Returns:
        The processes and what each settled for, ours first.
    """
    started, processes, settled = {}, {}, {}
    for name, contender in contenders.items():
        try:
            started[name] = host(contender, task)
        except CannotTakePart as error:
            leave_out(name, error)
        else:
            stack.callback(started[name].close)
    for process in started.values():
        process.wait()
    for name, process in started.items():
        say(f"{name}: looking for its fastest setting")
        try:
            settled[name] = process.call("settle")
        except CannotTakePart as error:
            leave_out(name, error)
        else:
            processes[name] = process
            speed = settled[name]["images_per_step"] / settled[name]["seconds_per_step"]
            say(f"{name}: {speed:.3g} images/s with {settings(settled[name])}")
    return processes, settled


def leave_peer_out(
    name: str,
    error: CannotTakePart,
    *,
    subject: Subject,
    missing: dict[str, str],
    say: Callable[[str], None],
) -> None:
    """Goes on without a peer; raises a `ValueError` where it is ours, or a limit."""
    if name == OURS or name in subject.limits:
        raise ValueError(f"{name} cannot take part: {error}") from error
    missing[name] = str(error)
    say(f"{name}: left out, as {error}")


def compare(
    subject: Subject, processes: dict[str, ContenderProcess], settled: dict[str, dict], options: Any
) -> dict[str, dict[str, float]]:
    """Holds the outcomes of the peers that do the same against ours.

    Raises:
        ValueError: where one does something else.
    """
    differences = {}
    for name in processes:
        if name not in subject.peers or not subject.peers[name].is_comparable:
            continue
        difference, allowed = subject.compare(
            settled[OURS]["outcome"], settled[name]["outcome"], options
        )
        if not difference <= allowed:
            raise ValueError(
                f"got a difference of {difference:.3g} between what {name} and we make of the same "
                f"images, allowed: {allowed:.3g}; these are two different things, and their speeds "
                "say nothing about each other"
            )
        differences[name] = {"difference": difference, "allowed_difference": allowed}
    return differences


def ask(
    method: str, processes: dict[str, ContenderProcess], say: Callable[[str], None]
) -> dict[str, Any]:
    """Returns what a method returns for each, and goes on without those where it fails: the turns
    are measured by then.
    """
    say(DOING[method])
    answers = {}
    for name, process in processes.items():
        try:
            answers[name] = process.call(method)
        except CannotTakePart as error:
            say(f"{name}: no {method}, as {error}")
    return answers


def race(
    processes: dict[str, ContenderProcess],
    settled: dict[str, dict],
    options: Options,
    leave_out: Callable[[str, CannotTakePart], None],
    say: Callable[[str], None],
):
    """Takes the turns; returns ours, the pairs, and the peaks of memory.

    Who fails in a turn, as for want of memory, is taken out of `processes` and `settled`.
    """
    turns: dict[str, Callable[[], float]] = {}
    seconds: dict[str, float] = {}  # of a turn, with the steps that warm up

    def turn(name: str, num_steps: int) -> float:
        if name not in processes:
            return math.nan
        try:
            return processes[name].call("turn", num_steps)
        except CannotTakePart as error:
            leave_out(name, error)
            processes.pop(name).close()  # the others get its memory
            del settled[name]
            return math.nan

    for name, process in processes.items():
        per_step = settled[name]["seconds_per_step"]
        num_steps = max(1, round(options.seconds / per_step))
        turns[name] = partial(turn, name, num_steps)
        seconds[name] = (settled[name]["num_warm_up_steps"] + num_steps) * per_step
        process.call("begin")
    own_seconds = seconds.pop(OURS)
    expected = options.turns * sum(own_seconds + theirs for theirs in seconds.values())
    say(f"{options.turns} turns of each beside as many of ours, about {expected / 60:.1f} minutes")
    own, pairs = take_turns(turns.pop(OURS), turns, num_turns=options.turns, say=say)
    pairs = {name: found for name, found in pairs.items() if name in processes}
    try:
        return own, pairs, {name: process.call("peak") for name, process in processes.items()}
    except CannotTakePart as error:
        raise ValueError(f"the peak of memory could not be read: {error}") from error
