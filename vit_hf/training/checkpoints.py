# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole or not there: written under another name, then renamed.

A process that is killed while it writes leaves a folder `.saving` behind, which is never taken for
a checkpoint and goes with the next one that is written.
"""

import json
import shutil
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

STAGING = ".saving"  # in the run's folder; holds the checkpoint that is being written
STATE = "trainer_state.json"
LAST = "last"  # as --resume_from_checkpoint: the newest there is, or a fresh start


def find_checkpoint(wanted: str | bool | None, output_dir) -> str | None:
    """Returns the folder of the checkpoint to resume from.

    Args:
        wanted: a folder; "last" for the newest checkpoint in `output_dir`, or a fresh start where
            there is none; true for the newest, which must be there; nothing for a fresh start.
        output_dir: the run's folder.

    Raises:
        ValueError: where there is no such checkpoint.
    """
    if not wanted:
        return None
    output_dir = Path(output_dir)
    if wanted == LAST or wanted is True or str(wanted).lower() == "true":
        newest = get_last_checkpoint(str(output_dir)) if output_dir.is_dir() else None
        if newest is None and wanted != LAST:
            raise ValueError(
                f"got resume_from_checkpoint={wanted}, but {output_dir} holds no checkpoint; "
                f"{LAST!r} starts afresh where there is none"
            )
        return newest
    if not (Path(wanted) / STATE).is_file():
        raise ValueError(
            f"got resume_from_checkpoint={wanted}, which is no folder with a {STATE}; "
            f"give a checkpoint-N folder of a run, or {LAST!r}"
        )
    return str(wanted)


def publish(staged: Path, output_dir: Path, *, best_step: int | None) -> Path:
    """Renames a whole checkpoint to its place.

    Args:
        staged: the checkpoint's folder in the staging folder.
        output_dir: the run's folder.
        best_step: step of the best checkpoint so far, to which the trainer's state points.

    Returns:
        The checkpoint's folder.
    """
    final = output_dir / staged.name
    if best_step is not None:
        state = json.loads((staged / STATE).read_text())
        state["best_model_checkpoint"] = str(output_dir / f"checkpoint-{best_step}")
        (staged / STATE).write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")
    if final.exists():  # a run that was resumed from an earlier checkpoint comes by again
        shutil.rmtree(final)
    staged.rename(final)
    return final
