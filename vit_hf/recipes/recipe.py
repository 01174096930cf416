# SPDX-License-Identifier: Apache-2.0
"""What a recipe is: the settings of one row of a paper's table, each with where it comes from."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Task = Literal["pretrain", "masked-patch-prediction", "finetune"]


@dataclass(frozen=True)
class Dataset:
    """The images a recipe was made for.

    Args:
        name: what the paper calls them.
        num_images: training images.
        num_classes: classes of the head, `None` where there are several tasks.
        source: where the two numbers come from.
        hub_id: id on the Hugging Face Hub, `None` where there is no official one.
    """

    name: str
    num_images: int
    num_classes: int | None
    source: str
    hub_id: str | None = None


@dataclass(frozen=True)
class Result:
    """A number that the source states for its run: `value` in percent, and where it stands."""

    metric: str
    value: float
    source: str


@dataclass(frozen=True)
class Recipe:
    """One row of a table.

    Args:
        name: what `--recipe` takes.
        task: `"pretrain"` (supervised), `"masked-patch-prediction"` or `"finetune"`.
        table: the paper and its table.
        row: the row of it, or what else tells its settings from others of the table.
        description: one sentence.
        model: settings of `VisionTransformerConfig`. At fine-tuning they override those of the
            checkpoint.
        arguments: transformers' `TrainingArguments` by their names, and the names below.
            `per_device_train_batch_size` is the whole batch, as on one device;
            `total_train_batch_size` says so again, for any number of devices.
        dataset: the images.
        expected: what the source reports, `None` where it reports nothing.
        starts_from: at fine-tuning, the settings of a checkpoint that the row starts from; the
            checkpoint in use says its own.
        notes: where a setting comes from that is not in the row, by the setting's name. What begins
            with `code:` is the authors' code, with `thread:` a public thread, where their paper is
            silent.
        remarks: what else there is to know.

    The arguments that transformers has not: `total_train_batch_size`; `image_size`; `crop_area`
    (least share of the image in an Inception crop, `None` for no crop) and `flip`;
    `randaugment_operations`, `randaugment_magnitude` (on AutoAugment's scale, where 10 is full),
    `randaugment_deviation` and `randaugment_probability`;
    `mixup_alpha`, `cutmix_alpha` and `mixing_probability`; `erasing_probability`;
    `label_smoothing`; `ema_decay` (Polyak averaging); `layer_decay`; `sweep_learning_rates` and
    `validation_fraction` (the sweep's development split). Every recipe states crop and flip; what
    else it does not state is off.
    """

    name: str
    task: Task
    table: str
    row: str
    description: str
    model: dict[str, Any]
    arguments: dict[str, Any]
    dataset: Dataset
    expected: tuple[Result, ...] | None = None
    starts_from: dict[str, Any] | None = None
    notes: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The table and the row."""
        return f"{self.table}, {self.row}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the recipe as JSON takes it, with the arguments at the top level."""
        own = asdict(self)
        arguments = own.pop("arguments")
        return {"name": own.pop("name"), "source": self.source, **own, **arguments}
