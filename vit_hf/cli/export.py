# SPDX-License-Identifier: Apache-2.0
"""Write a checkpoint as a folder that opens anywhere, with its image processor, code and card, and
push it to the Hugging Face Hub.
"""

from dataclasses import dataclass, field
from pathlib import Path


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
            "and for a folder that was exported before that folder."
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


def export(arguments: Arguments) -> tuple[Path, int]:
    """Writes the folder; returns it, and the exit status."""
    from transformers.utils.logging import disable_progress_bar

    from ..converters.recognition import open_checkpoint
    from ..hub.card import refresh_card
    from ..hub.export import missing_from_export

    disable_progress_bar()
    source = Path(arguments.checkpoint).expanduser()
    name = source.stem if source.is_file() else source.resolve().name
    folder = Path(arguments.output_dir or f"{name}-exported").expanduser()
    in_place = arguments.output_dir is None or folder.resolve() == source.resolve()
    if in_place and not missing_from_export(source):
        folder = source
        print(f"{source} is such a folder already; its card is rendered anew")
    else:
        opened = open_checkpoint(arguments.checkpoint)
        if opened.format != "vit_hf":
            return folder, convert(arguments.checkpoint, folder)
        export_own(opened.path, folder)
        print(f"wrote: {folder}")
    if refresh_card(folder):
        print(f"wrote: {folder / 'README.md'}")
    else:
        print(f"kept: {folder / 'README.md'}, which was edited by hand")
    return folder, 0


def export_own(source: Path, folder: Path):
    """Exports a checkpoint of this package, with the accounts that lie beside it."""
    from ..converters import load_image_processor
    from ..converters.loading import load
    from ..hub.export import copy_accounts, export_checkpoint

    loaded = load(source)
    print(f"recognised: {loaded.recognised}")
    export_checkpoint(loaded.model, folder, image_processor=load_image_processor(source))
    if folder.resolve() != source.resolve():
        copy_accounts(source, folder)


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
