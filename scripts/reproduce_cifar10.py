# SPDX-License-Identifier: Apache-2.0
"""The CIFAR-10 results of `model_cards/`: runs the exact commands, and renders the cards.

    python scripts/reproduce_cifar10.py masked_patch_prediction DATASET OUTPUT_DIR
    python scripts/reproduce_cifar10.py higher_resolution DATASET OUTPUT_DIR

DATASET is `uoft-cs/cifar10`, or a folder with its parquet files. A command that was stopped goes on
where it stood when the script is run again.
"""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

SEEDS = (0, 1, 2)
# Small enough for two CPU cores: 0.3 M parameters. The recipes' own model has a width of 96.
WIDTH = ["--settings", "hidden_size=64", "num_attention_heads=2", "intermediate_size=256"]
EVERY_RUN = ["--resume_from_checkpoint", "last", "--disable_tqdm", "True", "--logging_steps", "100"]
EVERY_RUN += ["--save_steps", "500", "--save_total_limit", "1"]
FINETUNE = ["--recipe", "cifar10-finetune", "--randaugment_operations", "0", "--mixup_alpha", "0"]
FINETUNE += ["--cutmix_alpha", "0", "--erasing_probability", "0", "--layer_decay", "1"]
FINETUNE += ["--total_train_batch_size", "64", "--per_device_train_batch_size", "64"]


def run(verb: str, *words: str | Path) -> Path:
    """Runs `vit-hf VERB ...`, unless its results are there; returns its output folder."""
    command = ["vit-hf", verb, *map(str, words), *EVERY_RUN]
    folder = Path(command[command.index("--output_dir") + 1])
    if not (folder / "results.json").is_file():
        print(" ".join(command), flush=True)
        subprocess.run(command, check=True)
    return folder


def masked_patch_prediction(dataset: str, output_dir: Path) -> None:
    """Masked patch prediction, then 10 % of the labels, against from scratch in as many steps."""
    data = ["--dataset_name", dataset]
    pretrained = output_dir / "masked"
    recipe = ["--recipe", "cifar10-masked-patch-prediction-tiny", "--max_steps", "4000"]
    run("pretrain", *recipe, *WIDTH, *data, "--seed", "0", "--output_dir", pretrained)
    budget = [*FINETUNE, "--train_fraction", "0.1", "--max_steps", "400", *data]
    budget += ["--model_name_or_path", pretrained]
    folders = []
    for seed in map(str, SEEDS):
        here = ["--seed", seed, "--output_dir"]
        tuned = run("finetune", *budget, *here, output_dir / f"finetuned-{seed}")
        control = run("finetune", *budget, "--from_scratch", *here, output_dir / f"scratch-{seed}")
        folders.append((tuned, control))
    collect(pretrained, folders, "cifar10-masked-patch-prediction", "the same network from scratch")


def higher_resolution(dataset: str, output_dir: Path) -> None:
    """Supervised pre-training on a subset, then 64 pixels: positions interpolated, or fresh."""
    data = ["--dataset_name", dataset]
    pretrained = output_dir / "supervised"
    recipe = ["--recipe", "cifar10-scratch-tiny", "--max_steps", "2000", *WIDTH]
    recipe += ["--train_fraction", "0.5"]
    run("pretrain", *recipe, *data, "--seed", "0", "--output_dir", pretrained)
    budget = [*FINETUNE, "--train_fraction", "0.1", "--max_steps", "200", "--image_size", "64"]
    budget += ["--model_name_or_path", pretrained, *data]
    folders = []
    for seed in map(str, SEEDS):
        here = ["--seed", seed, "--output_dir"]
        tuned = run("finetune", *budget, *here, output_dir / f"interpolated-{seed}")
        fresh = [*budget, "--fresh_positions", *here, output_dir / f"fresh-{seed}"]
        folders.append((tuned, run("finetune", *fresh)))
    control = "the same fine-tuning with fresh positions"
    collect(pretrained, folders, "cifar10-higher-resolution", control)


def collect(pretrained: Path, folders: list[tuple[Path, Path]], name: str, control: str) -> None:
    """Writes the results of all seeds and the card to `model_cards/NAME`."""
    from vit_hf.hub import render_card
    from vit_hf.hub.results import read_runs, write_runs

    (before,) = read_runs(pretrained / "results.json")
    phases = [{**phase, "command": before.command} for phase in before.phases]
    runs = []
    for tuned, other in folders:
        own, against = (read_runs(folder / "results.json")[0] for folder in (tuned, other))
        metrics = [replace(metric, of=control) for metric in against.metrics]
        # Cards of a former time are in the first of them already.
        kept = [metric for metric in own.metrics if metric.of is None]
        both = {"metrics": [*kept, *metrics], "phases": [*phases, own.phases[-1]]}
        runs.append(replace(own, **both))
    card = Path("model_cards") / name
    card.mkdir(parents=True, exist_ok=True)
    write_runs(runs, folders[0][0] / "results.json")
    render_card(folders[0][0], repo_id=name)
    for file in ("README.md", "results.json"):
        shutil.copyfile(folders[0][0] / file, card / file)
    print(f"wrote {card}")


if __name__ == "__main__":
    experiments = {f.__name__: f for f in (masked_patch_prediction, higher_resolution)}
    if len(sys.argv) != 4 or sys.argv[1] not in experiments:
        sys.exit(f"usage: reproduce_cifar10.py {{{','.join(experiments)}}} DATASET OUTPUT_DIR")
    experiments[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
