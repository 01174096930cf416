# SPDX-License-Identifier: Apache-2.0
"""Move a checkpoint between vit_hf, transformers, timm and the authors' JAX files, and check that
it gives the same numbers.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

NUM_IMAGES, SEED = 4, 0
TOLERANCE = 1e-4  # of the parity line; a larger difference is an error


@dataclass
class Arguments:
    """The arguments of `vit-hf convert`."""

    source: str = field(
        init=False,
        metadata={"word": None, "help": "A folder, a file or a Hub id; its format is recognised."},
    )
    destination: str = field(
        init=False,
        metadata={
            "word": None,
            "help": "A new folder, or that of an earlier conversion; an .npz file for jax and "
            "big_vision.",
        },
    )
    to: Literal["vit_hf", "transformers", "timm", "jax", "big_vision"] = field(
        metadata={"help": "The format to write."}
    )
    format: Literal["vit_hf", "transformers", "timm", "jax", "big_vision"] | None = field(
        default=None, metadata={"help": "The format of the source, to insist on it."}
    )
    task: Literal["image-classification", "features", "masked-patch-prediction"] | None = field(
        default=None,
        metadata={"help": "The task to convert for, where it is not the source's own."},
    )
    image_size: list[int] | None = field(
        default=None, metadata={"help": "Image size wanted: one number, or height and width."}
    )
    patch_size: list[int] | None = field(
        default=None, metadata={"help": "Patch size wanted: one number, or height and width."}
    )
    num_labels: int | None = field(
        default=None, metadata={"help": "Classes wanted; another number gets a fresh zero head."}
    )
    native_image_size: list[int] | None = field(
        default=None,
        metadata={"help": "Image size that the source was trained at, where it does not say."},
    )
    num_attention_heads: int | None = field(
        default=None, metadata={"help": "Heads, where the source does not say."}
    )
    settings: list[str] | None = field(
        default=None,
        metadata={
            "help": "Further settings of the configuration, such as pooling=none or "
            "representation_size=null."
        },
    )
    layout: list[str] | None = field(
        default=None,
        metadata={
            "help": "How a JAX file spells its arrays, such as names=linen or prefix=opt/target/."
        },
    )
    verify: bool = field(
        default=False,
        metadata={
            "help": "Write the account of the check beside the weights: parity.json in a folder, "
            "NAME.parity.json for NAME.npz."
        },
    )


def run(arguments: Arguments) -> int:
    """Converts one checkpoint; returns the exit status: 1 where the result does not give the same
    numbers.
    """
    from transformers.utils.logging import disable_progress_bar

    from ..converters import load_image_processor, save_checkpoint
    from ..converters.loading import load
    from ..converters.saving import check_destination, check_layout
    from ..experiment.arguments import as_size, parse_settings

    disable_progress_bar()

    sizes = {
        name: as_size(getattr(arguments, name), name)
        for name in ("image_size", "patch_size", "native_image_size")
    }
    overrides = parse_settings(arguments.settings, "settings")
    if arguments.num_attention_heads is not None:
        overrides["num_attention_heads"] = arguments.num_attention_heads
    layout = parse_settings(arguments.layout, "layout")
    check_layout(layout, arguments.to)
    loaded = load(
        arguments.source,
        format=arguments.format,
        task=arguments.task,
        num_labels=arguments.num_labels,
        config_overrides=overrides,
        **sizes,
    )
    destination = Path(arguments.destination).expanduser()
    check_destination(destination, format=arguments.to, source=loaded.path)
    print(f"recognised: {loaded.recognised}")
    for change in loaded.changes:
        print(f"changed: {change}")
    processor = load_image_processor(
        arguments.source,
        format=arguments.format,
        image_size=sizes["image_size"],
        native_image_size=sizes["native_image_size"],
    )
    if arguments.to == "vit_hf":
        from ..hub.export import export_checkpoint

        export_checkpoint(loaded.model, destination, image_processor=processor)
    else:
        save_checkpoint(
            loaded.model, destination, format=arguments.to, image_processor=processor, layout=layout
        )
    print(f"wrote: {destination} ({arguments.to})")
    return report(arguments, loaded, processor, destination)


def report(arguments: Arguments, loaded, processor, destination: Path) -> int:
    """Prints the parity line, writes `parity.json` where asked for, and returns the exit status."""
    from ..converters.parity import account_path, compare, write_account

    account = compare(
        loaded,
        destination,
        to=arguments.to,
        source=arguments.source,
        processor=processor,
        num_images=NUM_IMAGES,
        seed=SEED,
    )
    for comparison in account["comparisons"]:
        values = ", ".join(
            f"{name} {value:.1e}" for name, value in comparison["largest_difference"].items()
        )
        print(
            f"parity: largest difference over {NUM_IMAGES} images: {values} "
            f"({comparison['between']})"
        )
    if arguments.verify:
        print(f"wrote: {write_account(account, destination)}")
    else:  # an earlier conversion's is of other weights
        account_path(destination).unlink(missing_ok=True)
    if arguments.to == "vit_hf":
        write_card(destination, config=loaded.model.config, name=destination.name)
    largest = max(
        max(comparison["largest_difference"].values()) for comparison in account["comparisons"]
    )
    if largest > TOLERANCE:
        print(f"parity: more than {TOLERANCE:.0e}: the result is not the same model; do not use it")
        return 1
    return 0


def write_card(folder: Path, **options) -> None:
    """Renders the card of a folder, unless it was edited by hand, and prints which; the options are
    those of `render_card`.
    """
    from ..hub.card import refresh_card

    if refresh_card(folder, **options):
        print(f"wrote: {folder / 'README.md'}")
    else:
        print(f"kept: {folder / 'README.md'}, which was edited by hand")
