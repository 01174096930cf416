# SPDX-License-Identifier: Apache-2.0
"""The quickstart: a ViT's whole life in small, on real images.

Self-supervised pre-training (B.1.2), fine-tuning at a higher resolution with interpolated positions
and a fresh zero head (3.2), against training from scratch.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import Dataset, DatasetDict
from matplotlib.figure import Figure
from transformers import set_seed

from .. import (
    VisionTransformerConfig,
    VisionTransformerForImageClassification,
    VisionTransformerForMaskedPatchPrediction,
)
from ..converters.image_processors import authors_processor
from ..data import (
    BatchAugmentation,
    ImageCollator,
    ImageDataset,
    ImageTransform,
    MaskedPatchCollator,
    decode_image,
    load_images,
    normalize,
)
from ..hub import export_checkpoint, render_card
from ..hub.results import Run, write_runs
from ..inspection import (
    attention_rollout,
    draw_attention_rollout,
    draw_masked_prediction,
    draw_position_similarity,
    masked_prediction,
)
from ..training import VisionTransformerTrainer, VisionTransformerTrainingArguments
from .inputs import Inputs
from .results import account, called, measured
from .running import RESULTS, make_trainer, phase_of

WARMUP_SHARE = (
    0.1  # of the steps of a small run; the paper's 10,000 steps are as many of its longest
)
WEIGHT_DECAY = 0.1  # table 3
CROP_AREA = 0.6  # at fine-tuning, an Inception crop that leaves a digit readable
PRETRAIN_CROP_AREA = 0.2  # small crops show details at the scale that the higher resolution will
LOOK_SECONDS = 1.0  # for which one looks how busy the processors are
NUM_PICTURES = 8  # in each figure
CONTROL = "the same network from scratch, with the same fine-tuning steps"

REOPEN = """
import json, sys
from transformers import AutoModelForImageClassification, pipeline
folder, *images = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
classify = pipeline("image-classification", model=folder, trust_remote_code=True, top_k=1)
print(json.dumps({
    "num_parameters": model.num_parameters(), "vit_hf_is_imported": "vit_hf" in sys.modules,
    "predictions": [top[0]["label"] for top in classify(images)],
}))
"""


def quickstart(settings) -> Run:
    """Runs the life of a small ViT and writes everything that comes of it.

    Args:
        settings: the flags of `vit-hf quickstart`, see `vit_hf.cli.quickstart.Arguments`.

    Returns:
        The account of the run, which `results.json` in the output folder holds.
    """
    clock = Clock()
    leave_busy_processors()
    output_dir = Path(settings.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    images: Any = load_images(
        settings.dataset_name,
        seed=settings.seed,
        image_column=settings.image_column,
        label_column=settings.label_column,
    )
    num_test = len(images["test"])
    config = small_config(settings, images["train"].features["label"].names)
    say(f"{len(images['train'])} training images, {num_test} test images")

    say("1/6  pre-training by masked patch prediction, without labels, at half the resolution")
    pretrainer = pretrain_masked_patches(config, images, settings, output_dir / "pretraining")
    pretrained = output_dir / "pretraining"
    clock.lap("pretraining")

    say("2/6  fine-tuning at twice the resolution: interpolated positions, a fresh zero head")
    model = VisionTransformerForImageClassification.from_pretrained(
        pretrained, image_size=settings.image_size, id2label=config.id2label
    )
    finetuned = finetune(model, images, settings, output_dir / "finetuning")
    clock.lap("finetuning")

    say("3/6  the control: the same network from scratch, with the same steps")
    set_seed(settings.seed)
    from_scratch = VisionTransformerForImageClassification(config)
    control = finetune(from_scratch, images, settings, output_dir / "from_scratch")
    clock.lap("from_scratch")

    say("4/6  evaluating both on the test images")
    on_test = {"split": "test", "num_images": num_test}
    loss = pretrainer.evaluate()["eval_loss"]
    metrics = [
        measured("accuracy", finetuned.evaluate()["eval_accuracy"], **on_test),
        measured("accuracy", control.evaluate()["eval_accuracy"], **on_test, of=CONTROL),
        measured("loss", loss, **on_test, of="masked patch prediction, with fixed masks"),
    ]

    for folder in (output_dir / "finetuning", output_dir / "from_scratch"):
        if not any(folder.iterdir()):  # every image was readable
            folder.rmdir()

    say("5/6  writing the checkpoint and the pictures")
    checkpoint = export_checkpoint(model, output_dir / "checkpoint")
    pictures = draw_pictures(pretrained, model, images, output_dir / "figures")

    say("6/6  opening the checkpoint in a fresh process, without this package")
    reopened = reopen(checkpoint, images, output_dir / "samples")
    run = account(
        model_name=f"ViT {config.hidden_size}x{config.num_hidden_layers} on "
        f"{called(settings.dataset_name)}",
        task="image-classification",
        dataset_name=settings.dataset_name,
        images=images,
        seed=settings.seed,
        settings=[settings],
        metrics=metrics,
        phases=[
            phase_of(pretrainer, "masked patch prediction (appendix B.1.2), without labels"),
            phase_of(finetuned, "fine-tuning"),
        ],
        pictures=pictures,
        seconds=clock.seconds(),
        details={
            "num_parameters": model.num_parameters(),
            "seconds_by_phase": clock.laps,
            "reopened": reopened,
        },
    )
    write_results(run, output_dir, checkpoint)
    return run


def write_results(run: Run, output_dir: Path, checkpoint: Path):
    """Writes `results.json`, adds it and the pictures to the checkpoint, prints a summary."""
    results = write_runs([run], output_dir / RESULTS)
    for file in (results, *(output_dir / "figures" / name for name in run.pictures)):
        shutil.copyfile(file, checkpoint / file.name)
    render_card(checkpoint)
    accuracy, control = (metric.value for metric in run.metrics[:2])
    reopened = run.details["reopened"]
    pairs = zip(reopened["predictions"], reopened["labels"], strict=True)
    say(
        f"\naccuracy      {accuracy:.2%} of {run.dataset.splits['test']} test images\n"
        f"from scratch  {control:.2%} with the same steps, "
        f"so {difference(accuracy, control)}\n"
        f"re-opened     {sum(a == b for a, b in pairs)} of {len(reopened['labels'])} samples "
        "right through pipeline() in a fresh process\n"
        f"took          {run.seconds:.0f} s\n"
        f"checkpoint    {checkpoint}\n"
        f"pictures      {output_dir / 'figures'}\n"
        f"results       {results}"
    )


def difference(accuracy: float, control: float) -> str:
    """Returns in words what one accuracy is above or below another."""
    points = f"{100 * abs(accuracy - control):.2f} points"
    return f"a gain of {points}" if accuracy >= control else f"a loss of {points}"


def leave_busy_processors() -> None:
    """Computes with no more threads than there are idle processors: steps as small as these become
    tens of times slower when one thread has to wait for another that another program keeps waiting.
    """
    num_threads, num_processors = torch.get_num_threads(), psutil.cpu_count() or 1
    num_idle = round((1 - psutil.cpu_percent(interval=LOOK_SECONDS) / 100) * num_processors)
    if num_idle < num_threads:
        torch.set_num_threads(max(1, num_idle))
        say(f"other programs run here: {torch.get_num_threads()} of {num_threads} threads are used")


class Clock:
    """The seconds that each phase of a run takes."""

    def __init__(self):
        self.started = self.lapped = time.perf_counter()
        self.laps = {}

    def lap(self, name: str):
        """Ends a phase."""
        now = time.perf_counter()
        self.laps[name], self.lapped = now - self.lapped, now

    def seconds(self) -> float:
        """Returns the seconds since the start."""
        return time.perf_counter() - self.started


def small_config(settings, names: list[str]) -> VisionTransformerConfig:
    """Returns the configuration of the quickstart's network, with the classes' names."""
    id2label = dict(enumerate(names))
    return VisionTransformerConfig(
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_hidden_layers,
        num_attention_heads=max(1, settings.hidden_size // 32),
        intermediate_size=4 * settings.hidden_size,
        id2label=id2label,
        label2id={name: label for label, name in id2label.items()},
    )


def training_arguments(
    settings, output_dir: Path, *, num_epochs: float, num_images: int, learning_rate: float
) -> VisionTransformerTrainingArguments:
    """Returns the flags of training: AdamW, cosine, clip 1, as table 3 has for ImageNet."""
    num_steps = num_epochs * max(1, num_images // settings.per_device_train_batch_size)
    return VisionTransformerTrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=num_epochs,
        learning_rate=learning_rate,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        per_device_eval_batch_size=4 * settings.per_device_train_batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=int(WARMUP_SHARE * num_steps),
        weight_decay=WEIGHT_DECAY,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        seed=settings.seed,
        save_strategy="no",
        logging_strategy="no",
        dataloader_num_workers=0 if settings.dataset_name is None else 2,
    )


def pretrain_masked_patches(
    config: VisionTransformerConfig, images: DatasetDict, settings, output_dir: Path
) -> VisionTransformerTrainer:
    """Pre-trains by masked patch prediction at half the resolution of `config`.

    The checkpoint goes to `output_dir`; `evaluate` of the trainer gives the loss on the test
    images with fixed masks.
    """
    set_seed(settings.seed)
    height, width = config.image_hw
    config = VisionTransformerConfig(
        **{**config.to_dict(), "image_size": (height // 2, width // 2)}
    )
    model = VisionTransformerForMaskedPatchPrediction(config)
    trainer = make_trainer(
        model,
        Inputs(
            train=ImageDataset(
                images["train"], ImageTransform(config.image_hw, crop_area=PRETRAIN_CROP_AREA)
            ),
            evaluation=test_set(images, config),
            collator=MaskedPatchCollator(
                config, augmentation=BatchAugmentation(flip=settings.flip)
            ),
        ),
        training_arguments(
            settings,
            output_dir,
            num_epochs=settings.pretrain_epochs,
            num_images=len(images["train"]),
            learning_rate=settings.pretrain_learning_rate,
        ),
        image_processor=authors_processor(config),
    )
    trainer.train()
    trainer.save_model()
    return trainer


def finetune(
    model: VisionTransformerForImageClassification, images: DatasetDict, settings, output_dir: Path
) -> VisionTransformerTrainer:
    """Fine-tunes every weight of a classifier; `evaluate` of the trainer gives the accuracy."""
    config = model.config
    set_seed(settings.seed)
    trainer = make_trainer(
        model,
        Inputs(
            train=ImageDataset(
                images["train"], ImageTransform(config.image_hw, crop_area=CROP_AREA)
            ),
            evaluation=test_set(images, config),
            collator=ImageCollator(BatchAugmentation(flip=settings.flip)),
        ),
        training_arguments(
            settings,
            output_dir,
            num_epochs=settings.num_train_epochs,
            num_images=len(images["train"]),
            learning_rate=settings.learning_rate,
        ),
        image_processor=authors_processor(config),
    )
    trainer.train()
    return trainer


def test_set(images: Any, config: VisionTransformerConfig) -> dict[str, ImageDataset]:
    """Returns the test images, prepared as they are served."""
    transform = ImageTransform(config.image_hw, exact_decoding=True)
    return {"test": ImageDataset(images["test"], transform)}


def samples_of(rows: Dataset, config: VisionTransformerConfig) -> list[dict[str, Any]]:
    """Returns the samples of some test images."""
    dataset = test_set({"test": rows}, config)["test"]
    return [dataset[index] for index in range(len(dataset))]


@torch.no_grad()
def draw_pictures(pretrained: Path, model, images: DatasetDict, folder: Path) -> dict[str, str]:
    """Draws the pictures of a quickstart to `folder`; returns their captions by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = images["test"].select(range(min(NUM_PICTURES, len(images["test"]))))
    predictor = VisionTransformerForMaskedPatchPrediction.from_pretrained(pretrained)
    samples = samples_of(rows, predictor.config)
    batch = MaskedPatchCollator(predictor.config)(samples)
    pixels = normalize(batch["pixel_values"])
    predicted = masked_prediction(
        predictor, pixels, batch["bool_masked_pos"], batch["patch_replacement"]
    )
    captions = {
        "masked_prediction.png": "Test images, corrupted patches, what was predicted.",
        "position_similarity.png": "Cosine similarity of the fine-tuned position embeddings.",
        "attention_rollout.png": "Attention rollout on test images.",
    }
    figure = draw_masked_prediction(predicted, prediction_target=predictor.config.prediction_target)
    save(figure, folder / "masked_prediction.png")
    save(draw_position_similarity(model), folder / "position_similarity.png")
    batch = ImageCollator()(samples_of(rows, model.config))
    pixels = normalize(batch["pixel_values"])
    logits = model.eval()(pixels.to(model.device)).logits
    rollout = attention_rollout(model, pixels)
    names = model.config.id2label
    titles = [
        names[predicted] if predicted == label else f"{names[predicted]} (is {names[label]})"
        for predicted, label in zip(
            logits.argmax(-1).tolist(), batch["labels"].tolist(), strict=True
        )
    ]
    patch_hw = model.config.pixels_per_patch
    figure = draw_attention_rollout(pixels, rollout, titles=titles, patch_hw=patch_hw)
    save(figure, folder / "attention_rollout.png")
    return captions


def reopen(checkpoint: Path, images: DatasetDict, folder: Path) -> dict:
    """Opens an exported checkpoint with the Auto classes in a fresh process and classifies through
    `pipeline`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = images["test"].select(range(min(NUM_PICTURES, len(images["test"]))))
    files = []
    for index, image in enumerate(rows["image"]):
        files.append(str(folder / f"sample_{index}.png"))
        decode_image(image).save(files[-1])
    command = [sys.executable, "-c", REOPEN, str(checkpoint), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"the checkpoint {checkpoint} does not open in a fresh process:\n{done.stderr}"
        )
    reopened = json.loads(done.stdout.strip().splitlines()[-1])
    names = rows.features["label"].names
    return {**reopened, "labels": [names[label] for label in rows["label"]]}


def save(figure: Figure, path: Path):
    """Writes a figure to a PNG file."""
    figure.savefig(path, dpi=150)


def say(words: str):
    """Prints a line of progress."""
    print(words, flush=True)
