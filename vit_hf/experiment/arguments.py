# SPDX-License-Identifier: Apache-2.0
"""The flags of an experiment beside those of training: which model, which images, how augmented."""

import json
from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass
class ModelArguments:
    """Which model."""

    _argument_group_name: ClassVar[str] = "which model"

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "A checkpoint to start from: a Hub id, a folder or a file, of this package, "
            "transformers, timm or the authors' JAX code."
        },
    )
    recipe: str | None = field(
        default=None,
        metadata={
            "help": "Fills the flags with a recipe's numbers, which any flag given overrides; "
            "`vit-hf recipes` lists them."
        },
    )
    image_size: list[int] | None = field(
        default=None,
        metadata={
            "help": "Image size to train at: one number, or height and width; by default the "
            "checkpoint's. Positions are interpolated."
        },
    )
    settings: list[str] | None = field(
        default=None,
        metadata={
            "help": "Settings of the model's configuration, such as hidden_size=192 "
            "pooling=gap drop_path_rate=0.1."
        },
    )
    fresh_positions: bool = field(
        default=False,
        metadata={"help": "Starts the position embeddings afresh in the place of interpolating."},
    )
    from_scratch: bool = field(
        default=False,
        metadata={"help": "Takes the checkpoint's architecture alone, with fresh weights."},
    )
    license: str | None = field(
        default=None,
        metadata={
            "help": "Licence of the weights that come out, for their card, such as apache-2.0; by "
            "default the card names none."
        },
    )


@dataclass
class DataArguments:
    """Which images."""

    _argument_group_name: ClassVar[str] = "which images"

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "A Hub dataset, or a folder of class folders, parquet or WebDataset shards; by "
            "default the 1,797 handwritten digits that scikit-learn ships."
        },
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Image column, where there are several."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Label column, where there are several."}
    )
    class_names: list[str] | None = field(
        default=None, metadata={"help": "Names of the classes, where a stream does not say them."}
    )
    train_split: str | None = field(
        default=None, metadata={"help": "Split to train on, where it is not called train."}
    )
    test_split: str | None = field(
        default=None, metadata={"help": "Split to test on, where it is not called test."}
    )
    split_seed: int = field(
        default=0, metadata={"help": "Seed of the splits: the same for every seed of training."}
    )


@dataclass
class TrainingDataArguments(DataArguments):
    """Which images to train on, and how they are augmented."""

    _argument_group_name: ClassVar[str] = "which images, and how they are augmented"

    streaming: bool = field(
        default=False, metadata={"help": "Reads the shards as they come; needs --max_steps."}
    )
    validation_fraction: float = field(
        default=0.0,
        metadata={"help": "Share of the training images that is held out for validation."},
    )
    train_fraction: float = field(
        default=1.0,
        metadata={"help": "Share of the training images to train on, the same in every class."},
    )
    crop_area: float | None = field(
        default=0.05,
        metadata={
            "help": "Least share of the area that a random (Inception) crop keeps; 1 squashes "
            "the whole image to the size."
        },
    )
    flip: bool = field(
        default=True, metadata={"help": "Mirrors half of the images; not for digits and text."}
    )
    randaugment_operations: int = field(
        default=0, metadata={"help": "RandAugment: operations an image; 0 is none."}
    )
    randaugment_magnitude: float = field(
        default=9.0, metadata={"help": "RandAugment: strength, 0 to 30."}
    )
    randaugment_deviation: float = field(
        default=0.5, metadata={"help": "RandAugment: deviation of the strength."}
    )
    randaugment_probability: float = field(
        default=1.0, metadata={"help": "RandAugment: how likely each operation is carried out."}
    )
    mixup_alpha: float = field(default=0.0, metadata={"help": "Mixup; 0 is none."})
    cutmix_alpha: float = field(default=0.0, metadata={"help": "CutMix; 0 is none."})
    mixing_probability: float = field(
        default=1.0, metadata={"help": "Share of the batches that are mixed."}
    )
    erasing_probability: float = field(
        default=0.0, metadata={"help": "Random erasing: share of the images."}
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Share of each label that is spread over all classes."}
    )
    exact_decoding: bool = field(
        default=False,
        metadata={"help": "Decodes training images whole, without the JPEG decoder's scaling."},
    )


@dataclass
class TaskArguments:
    """What pre-training predicts."""

    _argument_group_name: ClassVar[str] = "what is predicted"

    task: Literal["image-classification", "masked-patch-prediction"] = field(
        default="image-classification",
        metadata={"help": "What is predicted: labels, or masked patches (no labels needed)."},
    )
    few_shot_steps: int = field(
        default=0,
        metadata={"help": "Steps between few-shot probes of the representation; 0 is none."},
    )


@dataclass
class SweepArguments:
    """Table 4's protocol."""

    _argument_group_name: ClassVar[str] = "table 4's protocol"

    sweep: bool = field(
        default=False,
        metadata={
            "help": "Tries each of --sweep_learning_rates on a held-out share of the training "
            "images, retrains with the best on all of them, and reports on the test images."
        },
    )
    sweep_learning_rates: list[float] | None = field(
        default=None, metadata={"help": "Learning rates of the sweep; a recipe brings its own."}
    )


@dataclass
class EvaluationArguments:
    """What `vit-hf evaluate` measures."""

    model_name_or_path: str = field(
        metadata={
            "help": "The checkpoint: a Hub id, a folder or a file, of this package, transformers, "
            "timm or the authors' JAX code."
        },
    )
    metrics: list[str] = field(
        default_factory=lambda: ["accuracy"],
        metadata={
            "help": "What is measured: accuracy (with top-5, each class, calibration, loss), and, "
            "of the frozen features of any checkpoint, few_shot, knn, logistic."
        },
    )
    image_size: list[int] | None = field(
        default=None,
        metadata={
            "help": "Image size: one number, or height and width; by default the checkpoint's."
        },
    )
    preprocessing: Literal["checkpoint", "few_shot"] = field(
        default="checkpoint",
        metadata={
            "help": "As the checkpoint's own processor does, or as the authors do for few-shot "
            "evaluation: resized to 8/7 of the size (256 for 224), then the central crop."
        },
    )
    resolutions: list[str] | None = field(
        default=None,
        metadata={
            "help": "Image sizes, such as 96,128,160x224: accuracy, speed and memory at each and "
            "at the checkpoint's own, and resolutions.png."
        },
    )
    label_sets: str | None = field(
        default=None,
        metadata={
            "help": "A JSON file with the acceptable labels of each image (numbers or names of the "
            "dataset's classes), as ReaL has them: [[0, 3], [], [7]]; without any it is left out."
        },
    )
    shots: list[int] | None = field(
        default=None, metadata={"help": "few_shot: images of each class; by default 1 5 10 25."}
    )
    seeds: list[int] | None = field(
        default=None, metadata={"help": "few_shot: seeds of their choice; by default 0 1 2."}
    )
    neighbors: int | None = field(
        default=None, metadata={"help": "knn: how many neighbours vote; by default 20."}
    )
    logistic_c: float | None = field(
        default=None,
        metadata={"help": "logistic: scikit-learn's C, the inverse of the L2; by default 1."},
    )
    split: Literal["test", "train"] = field(default="test", metadata={"help": "Which split."})
    output_dir: str = field(
        default="runs/evaluation", metadata={"help": "Folder for results.json."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images at once."})
    dataloader_num_workers: int = field(default=0, metadata={"help": "Decoding processes."})
    use_cpu: bool = field(default=False, metadata={"help": "Leaves an accelerator alone."})
    disable_tqdm: bool = field(default=False, metadata={"help": "Hides the progress bars."})


def parse_settings(words: list[str] | None, flag: str) -> dict:
    """Parses words like `pooling=none` and `representation_size=null`; values are JSON, or else
    text.
    """
    settings = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"got --{flag} {word}, allowed: name=value")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def as_size(numbers: list[int] | None, flag: str) -> int | tuple[int, int] | None:
    """Returns one number as an int and two as `(height, width)`."""
    if numbers is None:
        return None
    if len(numbers) > 2:
        raise ValueError(
            f"got --{flag} {' '.join(map(str, numbers))}, allowed: one number, or height and width"
        )
    if min(numbers) < 1:
        raise ValueError(f"got --{flag} {' '.join(map(str, numbers))}, allowed: 1 pixel or more")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
