# SPDX-License-Identifier: Apache-2.0
"""What training a model costs on given devices: operations, memory, communication, time, and which
resource limits. Nothing is trained and no memory is taken.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..recipes import Recipe, get, sizes
from . import nearest

GIGA, EXA = 10**9, 10**18
PAPER_BATCH_SIZE = 4096
SIZE_NAME = re.compile(r"(?:(R\d*)_)?VIT_([A-Z]+?)(\d+)")  # of the constants in recipes/sizes.py
MEASURED_SECONDS = 2  # of this machine's speed
LEAST = {  # that a flag may be, where the run does not say so itself
    "num_images": 1,
    "batch_size": 1,
    "per_device_train_batch_size": 1,
    "image_size": 1,
    "num_labels": 0,
}


@dataclass
class Arguments:
    """The arguments of `vit-hf plan`."""

    model: str | None = field(
        default=None, metadata={"help": "The paper's name, such as B/16, H/14 or R50+L/32."}
    )
    recipe: str | None = field(
        default=None,
        metadata={"help": "A recipe's model, images, batch and optimizer; flags override them."},
    )
    num_images: int | None = field(default=None, metadata={"help": "Images of the training set."})
    epochs: float | None = field(default=None, metadata={"help": "Times that each is seen."})
    batch_size: int | None = field(
        default=None,
        metadata={"help": "Images an update, over all devices; else the recipe's, or 4096."},
    )
    per_device_train_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Images that a device takes at once; the rest of an update is accumulated. By "
            "default as in vit-hf pretrain: 128, or the most below it that makes up an update."
        },
    )
    devices: int = field(default=1, metadata={"help": "How many train together."})
    device_type: str = field(
        default="h100",
        metadata={
            "help": "h200, h100, a100-80gb, a100-40gb, v100, l4, t4, rtx-4090, tpu-v3-core, or cpu "
            "(this machine: measured, or as --flops says)."
        },
    )
    flops: float | None = field(
        default=None, metadata={"help": "Operations a second of a device, in place of the table's."}
    )
    utilisation: float = field(
        default=0.4, metadata={"help": "Share of them that the model's operations reach."}
    )
    fsdp: bool = field(default=False, metadata={"help": "Shards the model over the devices."})
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Computes activations again in place of keeping them."}
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None,
        metadata={"help": "Of the computation; by default bfloat16 where the device has it."},
    )
    optim: Literal["adamw_torch_fused", "adamw_torch", "sgd"] | None = field(
        default=None, metadata={"help": "The optimizer; sgd is with momentum."}
    )
    ema_decay: float | None = field(
        default=None, metadata={"help": "Above 0, an average of the weights is kept."}
    )
    task: Literal["image-classification", "masked-patch-prediction"] | None = field(
        default=None, metadata={"help": "What is trained; else the recipe's, or classification."}
    )
    image_size: int | None = field(default=None, metadata={"help": "Pixels a side."})
    num_labels: int | None = field(default=None, metadata={"help": "Classes; else 1000."})
    json: str | None = field(default=None, metadata={"help": "File for the plan as JSON."})


def run(arguments: Arguments) -> int:
    """Plans a training and prints the plan; returns the exit status."""
    from ..planning import make_plan

    title, what = run_of(arguments)
    plan = make_plan(what)
    for line in report(title, plan):
        print(line)
    if arguments.json is not None:
        path = Path(arguments.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"model": title, **plan.to_dict()}, indent=2) + "\n")
        print(f"\nwrote {path}")
    return 0


def models_by_name() -> dict[str, dict]:
    """Returns the sizes of `recipes/sizes.py` by the papers' names: B/16, R50+L/32, R+Ti/16."""
    found = {}
    for constant, size in vars(sizes).items():
        match = SIZE_NAME.fullmatch(constant)
        if match:
            stem, letters, patch = match.groups()
            name = f"{letters.capitalize()}/{patch}"
            found[f"{stem}+{name}" if stem else name] = size
    return found


def find_model(name: str) -> tuple[str, dict]:
    """Returns the paper's name and the size of a model that is named in any spelling of it.

    Raises:
        ValueError: for a model that there is not, with the nearest that there is.
    """
    models = models_by_name()
    by_spelling = {plain(known): known for known in models}
    known = by_spelling.get(plain(name))
    if known is None:
        hint = nearest(plain(name), by_spelling)
        for spelling, known in by_spelling.items():
            hint = hint.replace(repr(spelling), repr(known))
        raise ValueError(f"got the model {name!r}, allowed: {', '.join(models)}.{hint}")
    return known, models[known]


def plain(name: str) -> str:
    """Returns a model's name without case, signs, and the word ViT."""
    return re.sub(r"vit|[^a-z0-9]", "", name.lower())


def run_of(arguments: Arguments):
    """Returns what to call the run that the flags and the recipe describe, and the run.

    Raises:
        ValueError: for flags that leave open what to plan, and numbers that no run can have.
    """
    from ..modeling.configuration_vision_transformer import VisionTransformerConfig
    from ..planning import Parallel, Run, TrainingStep
    from ..training.arguments import default_batch_size

    check_numbers(arguments)
    parallel = Parallel(arguments.devices, fsdp=arguments.fsdp)
    recipe = get(arguments.recipe) if arguments.recipe else None
    numbers = recipe.arguments if recipe else {}
    title, settings = model_of(arguments, recipe)
    config = VisionTransformerConfig(**settings)
    device, dtype = device_of(arguments, width=config.hidden_size)
    batch_size = arguments.batch_size or numbers.get("total_train_batch_size", PAPER_BATCH_SIZE)
    masked = recipe is not None and recipe.task == "masked-patch-prediction"
    ema_decay = (
        numbers.get("ema_decay", 0.0) if arguments.ema_decay is None else arguments.ema_decay
    )
    return title, Run(
        config=config,
        num_images=images_of(arguments, recipe),
        batch_size=batch_size,
        per_device_batch_size=arguments.per_device_train_batch_size
        or default_batch_size(batch_size, num_devices=arguments.devices),
        step=TrainingStep(
            task=arguments.task
            or ("masked-patch-prediction" if masked else "image-classification"),
            dtype=dtype,
            optimizer=arguments.optim or numbers.get("optim", "adamw_torch_fused"),
            gradient_checkpointing=arguments.gradient_checkpointing,
            on_accelerator=device.is_accelerator,
        ),
        device=device,
        parallel=parallel,
        average=ema_decay > 0,
        utilisation=arguments.utilisation,
    )


def check_numbers(arguments: Arguments):
    """Raises a `ValueError` for a number that no run can have."""
    for flag, least in LEAST.items():
        value = getattr(arguments, flag)
        if value is not None and not value >= least:
            raise ValueError(f"got --{flag} {value:g}, allowed: {least} and more")
    for flag in ("epochs", "flops"):
        value = getattr(arguments, flag)
        if value is not None and not value > 0:
            raise ValueError(f"got --{flag} {value:g}, allowed: above 0")
    if arguments.ema_decay is not None and not 0 <= arguments.ema_decay < 1:
        raise ValueError(f"got --ema_decay {arguments.ema_decay:g}, allowed: from 0 to below 1")


def model_of(arguments: Arguments, recipe: Recipe | None) -> tuple[str, dict]:
    """Returns what the model is called and its settings."""
    if recipe is None and arguments.model is None:
        raise ValueError("got neither --model nor --recipe; give one, such as --model L/16")
    title, settings = recipe.name if recipe else "", {}
    if recipe is not None:
        settings = {**(recipe.starts_from or {}), **recipe.model}
        settings["num_labels"] = recipe.dataset.num_classes or 0
    if arguments.model is not None:
        name, size = find_model(arguments.model)
        title = f"{name}, {title}" if title else name
        if "representation_size" in settings:
            settings["representation_size"] = size["hidden_size"]
        settings = {**settings, "stem_blocks": None, **size}
    for flag in ("image_size", "num_labels"):
        value = getattr(arguments, flag)
        if value is not None:
            settings[flag] = value
    return title, {"num_labels": 1000, **settings}


def images_of(arguments: Arguments, recipe: Recipe | None) -> int:
    """Returns how many images are seen in all."""
    from ..planning import images_seen

    if recipe is None and (arguments.num_images is None or arguments.epochs is None):
        given = [
            f"--{name} {value}"
            for name, value in (("num_images", arguments.num_images), ("epochs", arguments.epochs))
            if value is not None
        ]
        raise ValueError(
            f"got {' '.join(given) or 'nothing'} for the images to see; give --num_images and "
            "--epochs, or --recipe"
        )
    num_images = arguments.num_images or (recipe.dataset.num_images if recipe else 0)
    if arguments.epochs is not None or recipe is None:
        return round((arguments.epochs or 0) * num_images)
    return images_seen(recipe.arguments, dataset_size=num_images)


def device_of(arguments: Arguments, *, width: int):
    """Returns the device and the name of the type that it computes in.

    Of this machine's CPU the speed is that of a matrix product as wide as the model, as a training
    measures it for its MFU, but for longer, as other work may pause. What that took of the
    processors is said with the source; nothing is said of the memory's speed.
    """
    from dataclasses import replace

    from ..planning import DTYPES, Device, get_device

    if arguments.device_type != "cpu":
        device = get_device(arguments.device_type)
        dtype = arguments.dtype or device.default_dtype
        if arguments.flops is not None:
            which = "float32_flops" if dtype == "float32" else "half_flops"
            device = replace(
                device, **{which: arguments.flops}, source="--flops, and " + device.source
            )
        return device, dtype
    import psutil
    import torch

    from ..benchmark.machine import busy_share
    from ..benchmark.report import IDLE_SHARE
    from ..training.throughput import measured_limit

    dtype = arguments.dtype or "float32"
    source = "--flops"
    flops = arguments.flops
    if flops is None:
        source, busy = "measured here", busy_share()
        if busy > IDLE_SHARE:
            source += f" while other work took {busy:.0%} of the processors; plan again without it"
        flops = measured_limit(
            width=width, dtype=DTYPES[dtype], device=torch.device("cpu"), seconds=MEASURED_SECONDS
        )
    return Device(
        "cpu",
        half_dtype=dtype if dtype != "float32" else "bfloat16",
        half_flops=flops,
        float32_flops=flops,
        memory=psutil.virtual_memory().total / arguments.devices,  # processes of one machine
        memory_bandwidth=None,
        interconnect=None,
        source=source,
        is_accelerator=False,
    ), dtype


def report(title: str, plan) -> Iterator[str]:
    """Yields the lines of a plan."""
    device = plan.device
    yield f"{title}: {plan.parameters:,} parameters"
    yield ""
    yield f"forward pass    {plan.flops_per_image / GIGA:.4g} GFLOPs an image"
    yield (
        f"training        {plan.total_exaflops:.4g} exaFLOPs: 3 x that x {plan.num_images:,} "
        f"images, {plan.num_updates:,} updates of {plan.batch_size:,}"
    )
    yield (
        f"on              {plan.devices} x {device.name}: {device.flops(plan.dtype) / 1e12:.4g} "
        f"TFLOP/s in {plan.dtype}, {device.memory / GIGA:.4g} GB [{device.source}]"
    )
    sharing = "sharded (FSDP)" if plan.fsdp else "a copy on each (DDP)" if plan.devices > 1 else "-"
    yield (
        f"batch           {plan.per_device_batch_size} a device x {plan.devices} x "
        f"{plan.num_batches_accumulated} accumulated; model: {sharing}; {plan.optimizer}"
    )
    yield ""
    yield from memory_lines(plan)
    yield ""
    yield from time_lines(plan)


def memory_lines(plan) -> Iterator[str]:
    """Yields what the memory of a device is used for."""
    yield f"memory a device {plan.memory_bytes_per_device / GIGA:8.2f} GB at the step's peak"
    for name, size in plan.memory_bytes.items():
        yield f"  {name.replace('_', ' '):14}{size / GIGA:8.2f} GB"
    with_or_without = "without" if plan.gradient_checkpointing else "with"
    yield (
        f"{with_or_without + ' gradient checkpointing':30}"
        f"{plan.memory_bytes_other_checkpointing / GIGA:.2f} GB"
    )
    yield f"largest batch that fits       {plan.largest_per_device_batch} images a device"
    if not plan.fits:
        yield f"IT DOES NOT FIT into {plan.device.memory / GIGA:.4g} GB"
        yield f"  what would: {'; or '.join(plan.would_fit) or 'a device with more memory'}"


def time_lines(plan) -> Iterator[str]:
    """Yields how long it takes."""
    said = {
        "compute": f"compute, at {plan.utilisation:.0%} of the peak",
        "memory_bandwidth": "reading and writing memory",
        "communication": f"sending {plan.communication_bytes_per_update / GIGA:.3g} GB",
    }
    for name, seconds in plan.seconds_per_update.items():
        yield f"{said[name]:30}{seconds * 1000:.4g} ms an update"
    yield f"what limits                   {plan.limit.replace('_', ' ')}"
    yield (
        f"time                          {plan.hours:.4g} hours, {plan.device_hours:.4g} "
        "device-hours, where the slowest of these hides the others"
    )
