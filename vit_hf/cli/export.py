# SPDX-License-Identifier: Apache-2.0
"""Write a checkpoint as a folder that opens anywhere, with its image processor, code and card, and
push it to the Hugging Face Hub; or, with --to, as a graph that takes raw images.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass
class Arguments:
    """The arguments of `vit-hf export`."""

    checkpoint: str = field(
        init=False,
        metadata={
            "word": None,
            "help": "A folder, a file or a Hub id of any format that `vit-hf convert` reads; or a "
            "folder that was exported before, whose card is rendered anew.",
        },
    )
    output_dir: str | None = field(
        default=None,
        metadata={
            "help": "The folder to write; by default the name of the checkpoint with -exported, "
            "and for a folder that was exported before that folder. Of a graph the name of the "
            "checkpoint with the format."
        },
    )
    to: Literal["onnx", "torch_export", "int8", "openvino"] | None = field(
        default=None,
        metadata={
            "help": "Write a graph with the preprocessing in it, run by ONNX Runtime (onnx, int8), "
            "torch or OpenVINO, after it gave the model's numbers on real images."
        },
    )
    image_size: list[int] | None = field(
        default=None,
        metadata={
            "help": "Of a graph: the size that the model gets, one number, or height and width."
        },
    )
    task: Literal["image-classification", "features"] | None = field(
        default=None, metadata={"help": "Of a graph: what it returns, if not the checkpoint's own."}
    )
    images: list[str] | None = field(
        default=None,
        metadata={
            "help": "Of a graph: what it is checked on, files, folders or a dataset; by default "
            "crops of two photographs that scikit-learn ships."
        },
    )
    push_to_hub: bool = field(
        default=False, metadata={"help": "Push the folder to the Hub and open it again from there."}
    )
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Where to push: owner/name, or a name of your own."}
    )
    hub_token: str | None = field(
        default=None,
        metadata={"help": "Token with write rights; by default that of `hf auth login`."},
    )
    hub_private_repo: bool | None = field(
        default=None, metadata={"help": "Make the repository private, where it is made now."}
    )
    hub_revision: str | None = field(
        default=None, metadata={"help": "The branch to push to; made where it is not there."}
    )


def run(arguments: Arguments) -> int:
    """Exports one checkpoint, and pushes it where asked to; returns the exit status: 1 where the
    exported model does not give the same numbers.
    """
    check(arguments)
    if arguments.to is not None:
        return export_as_graph(arguments, to=arguments.to)

    from ..hub import push

    folder, status = export(arguments)
    if status or not arguments.push_to_hub:
        return status
    url = push(
        folder,
        arguments.hub_model_id or "",
        token=arguments.hub_token,
        private=arguments.hub_private_repo,
        revision=arguments.hub_revision,
    )
    print(f"pushed: {url}, and opened again from there")
    return 0


def check(arguments: Arguments):
    """Raises a `ValueError` for flags of which one asks for another."""
    given = [
        f"--{name}"
        for name in ("hub_model_id", "hub_token", "hub_private_repo", "hub_revision")
        if getattr(arguments, name) is not None
    ]
    if arguments.push_to_hub and arguments.hub_model_id is None:
        raise ValueError("got --push_to_hub without --hub_model_id; give owner/name")
    if given and not arguments.push_to_hub:
        raise ValueError(f"got {', '.join(given)} without --push_to_hub; add it, or leave them out")
    if arguments.to is not None and arguments.push_to_hub:
        raise ValueError(
            f"got --push_to_hub with --to {arguments.to}; graphs are not pushed from here, use: "
            "hf upload owner/name FOLDER"
        )
    given = [
        f"--{name}"
        for name in ("image_size", "task", "images")
        if getattr(arguments, name) is not None
    ]
    if given and arguments.to is None:
        raise ValueError(
            f"got {', '.join(given)} without --to, which alone takes them; add --to onnx, "
            "torch_export, int8 or openvino, or leave them out"
        )


def export_as_graph(arguments: Arguments, *, to: str) -> int:
    """Writes a graph and prints how close it is; returns the exit status: 1 where it does not give
    the model's numbers.
    """
    from transformers.utils.logging import disable_progress_bar

    try:
        from ..deployment import NotTheSameModel, export_graph
    except ImportError as error:  # transformers is too old for it
        raise ValueError(str(error)) from error
    from ..experiment.arguments import as_size

    disable_progress_bar()
    print(
        f"exporting to {to}, then running model and graph on real images: a few seconds, and two "
        "passes of each image",
        flush=True,
    )
    folder = arguments.output_dir or f"{name_of(arguments.checkpoint)}-{to}"
    try:
        account = export_graph(
            arguments.checkpoint,
            folder,
            to=to,
            task=arguments.task,
            image_size=as_size(arguments.image_size, "image_size"),
            images=arguments.images,
        )
    except NotTheSameModel as error:
        print(f"parity: {error}; nothing was written")
        return 1
    parity = account["parity"]
    print(f"recognised: {account['recognised']}")
    print(
        f"parity: on {parity['images']['num_images']} images the largest difference is "
        f"{parity['largest_difference']:.1e} ({parity['relative_difference']:.1%} of the outputs' "
        f"deviation), the largest output is the same for {parity['top1_agreement']:.1%}"
    )
    size = sum(account["files"].values()) / 2**20
    print(f"wrote: {folder} ({to}, {size:.1f} MiB)")
    return 0


def name_of(checkpoint: str) -> str:
    """Returns what the folder that is written is called after."""
    source = Path(checkpoint).expanduser()
    return source.stem if source.is_file() else source.resolve().name


def export(arguments: Arguments) -> tuple[Path, int]:
    """Writes the folder; returns it, and the exit status."""
    from transformers.utils.logging import disable_progress_bar

    from ..converters.recognition import open_checkpoint
    from ..converters.saving import check_destination
    from ..hub.export import ACCOUNTS, PICTURES, missing_from_export
    from .convert import write_card

    disable_progress_bar()
    source = Path(arguments.checkpoint).expanduser()
    folder = Path(arguments.output_dir or f"{name_of(arguments.checkpoint)}-exported").expanduser()
    in_place = arguments.output_dir is None or folder.resolve() == source.resolve()
    if in_place and not missing_from_export(source):
        folder = source
        print(f"{source} is such a folder already; its card is rendered anew")
    else:
        opened = open_checkpoint(arguments.checkpoint)
        if opened.format != "vit_hf":
            return folder, convert(arguments.checkpoint, folder)
        if not in_place:
            check_destination(
                folder, format="vit_hf", source=opened.path, beside=(*ACCOUNTS, PICTURES)
            )
        export_own(opened.path, folder)
        print(f"wrote: {folder}")
    write_card(folder)
    return folder, 0


def export_own(source: Path, folder: Path):
    """Exports a checkpoint of this package, with the accounts that lie beside it."""
    from ..converters import load_image_processor
    from ..converters.loading import load
    from ..hub.export import copy_accounts, export_checkpoint

    loaded = load(source)
    print(f"recognised: {loaded.recognised}")
    with tempfile.TemporaryDirectory() as kept:  # in place, they would go with the old weights
        copy_accounts(source, kept)
        export_checkpoint(loaded.model, folder, image_processor=load_image_processor(source))
        copy_accounts(kept, folder)


def convert(checkpoint: str, folder: Path) -> int:
    """Converts a foreign checkpoint, with its passport; returns the exit status."""
    from . import convert as verb

    words = verb.Arguments(to="vit_hf", verify=True)
    words.source, words.destination = checkpoint, str(folder)
    try:
        return verb.run(words)
    except ValueError as error:
        raise ValueError(
            f"{error}. What the checkpoint does not say is said to `vit-hf convert {checkpoint} "
            f"{folder} --to vit_hf --verify ...`; export the folder that it writes"
        ) from error
