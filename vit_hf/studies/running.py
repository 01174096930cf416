# SPDX-License-Identifier: Apache-2.0
"""Running a study: every arm with every seed, each kept on disk, and what comes of them together.

A study that was stopped goes on with the first arm that has no results. Results of other settings
or images are never taken for this study's.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..experiment.arguments import DataArguments
from ..experiment.results import DIGITS, VERSIONS_OF, called, hub_id_of, write_json
from ..experiment.running import RESULTS
from ..hub.results import Run, command_line, read_runs, write_runs
from .figure import draw_study
from .pictures import StudyImages
from .scale import Scale
from .study import Arm, Study
from .table import table
from .training import train_arm

STUDY, FIGURE, ARMS = "study.json", "study.png", "arms"
DOTS_PER_INCH = 150


def run_study(
    study: Study, scale: Scale, data: DataArguments, *, seeds: Sequence[int], output_dir: Path
) -> dict[str, Any]:
    """Runs a study and writes `study.json` and `study.png`, first after one seed, then after each.

    Args:
        study: which.
        scale: its size.
        data: its images.
        seeds: each arm is trained with each of them.
        output_dir: where it is written, and its arms are kept.

    Returns:
        What `study.json` holds.

    Raises:
        ValueError: where `output_dir` holds arms of other settings or images.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"got seeds={list(seeds)}, allowed: one or more, each once")
    arms = study.make_arms(scale)
    images = StudyImages(data, num_test_images=scale.num_test_images)
    print(
        f"{images.name or DIGITS}: {len(images.train):,} training images, {len(images.test):,} of "
        f"{images.num_test_in_all:,} test images measured; {len(arms)} trainings with "
        f"{len(seeds)} seeds each",
        flush=True,
    )
    runs: list[Run] = []
    content: dict[str, Any] = {}
    for seed in seeds:
        for arm in arms:
            run = finished_run(arm, seed=seed, images=images, output_dir=output_dir)
            runs.append(run)
            number = f"[{len(runs)}/{len(arms) * len(seeds)}]"
            told = ", ".join(f"{m.name} {m.value:.4f}" for m in run.metrics)
            print(f"{number} seed {seed}, {arm.name}: {told} ({run.seconds:.0f} s)", flush=True)
        content = account_of(study, scale, images, runs)
        write_json(content, output_dir / STUDY)
        draw_study(study, content).savefig(output_dir / FIGURE, dpi=DOTS_PER_INCH)
    print("\n" + "\n".join(table(content)))
    print(f"results, figure: {output_dir / STUDY}, {output_dir / FIGURE}", flush=True)
    return content


def finished_run(arm: Arm, *, seed: int, images: StudyImages, output_dir: Path) -> Run:
    """Returns the account of an arm with a seed, from disk, or else after it was trained."""
    folder = output_dir / ARMS / arm.folder / f"seed-{seed}"
    settings = json.loads(
        json.dumps(
            {
                **arm.settings(),
                "num_test_images": len(images.test),
                "fingerprint": images.fingerprint,
            }
        )
    )
    path = folder / RESULTS
    if path.is_file():
        (run,) = read_runs(path)
        differing = [name for name in settings if run.settings.get(name) != settings[name]]
        if differing:
            name = differing[0]
            raise ValueError(
                f"got {output_dir}, where the arm {arm.name!r} was run with {name}="
                f"{run.settings.get(name)}, for a study with {name}={settings[name]}; give another "
                "--output_dir, or the flags of that study"
            )
        return run
    start = output_dir / ARMS / arm.start.folder / f"seed-{seed}" if arm.start else None
    folder.mkdir(parents=True, exist_ok=True)
    run = train_arm(arm, seed=seed, images=images, start=start, folder=folder, settings=settings)
    write_runs([run], path.with_suffix(".writing")).rename(path)  # whole, or not there
    return run


def account_of(
    study: Study, scale: Scale, images: StudyImages, runs: Sequence[Run]
) -> dict[str, Any]:
    """Returns what `study.json` holds: every run, and every arm's mean and deviation over seeds."""
    return {
        "study": study.name,
        "title": study.title,
        "source": study.source,
        "command": command_line([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "scale": asdict(scale),
        "dataset": {
            "name": called(images.name),
            "hub_id": hub_id_of(images.name),
            "fingerprint": images.fingerprint,
            "splits": {"train": len(images.train), "test": images.num_test_in_all},
            "test_images_measured": len(images.test),
        },
        "versions": {name: version(name) for name in VERSIONS_OF},
        "seconds": sum(run.seconds for run in runs),
        "written": time.strftime("%Y-%m-%d"),
        "arms": summarize(runs),
        "runs": [entries_of(run) for run in runs],
    }


def entries_of(run: Run) -> dict[str, Any]:
    """Returns what `study.json` holds of one run."""
    return {
        "arm": run.model_name,
        "seed": run.seed,
        "metrics": {
            metric.name: {
                "value": metric.value,
                "confidence_interval": metric.confidence_interval,
                "num_images": metric.num_images,
            }
            for metric in run.metrics
        },
        "training_images": run.dataset.splits["train"],
        **run.details,
        "seconds": run.seconds,
        "settings": run.settings,
    }


def summarize(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns each arm's means, and sample standard deviations where there are several seeds."""
    summary = []
    for name in dict.fromkeys(run.model_name for run in runs):
        own = [run for run in runs if run.model_name == name]
        metrics = {}
        for position, metric in enumerate(own[0].metrics):
            values = [run.metrics[position].value for run in own]
            deviation = statistics.stdev(values) if len(values) > 1 else None
            metrics[metric.name] = {"mean": statistics.fmean(values), "deviation": deviation}
        first = entries_of(own[0])
        summary.append(
            {
                "arm": name,
                "place": first["place"],
                "metrics": metrics,
                "num_seeds": len(own),
                **{
                    key: first[key]
                    for key in (
                        "num_parameters",
                        "training_images",
                        "images_seen",
                        "training_flops",
                    )
                },
                "seconds": statistics.fmean(run.seconds for run in own),
            }
        )
    return summary
