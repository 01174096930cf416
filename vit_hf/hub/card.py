# SPDX-License-Identifier: Apache-2.0
"""The model card of an exported folder, rendered from the files in it: no number is typed in."""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from PIL.Image import Resampling
from safetensors import safe_open

from ..modeling.configuration_vision_transformer import VisionTransformerConfig
from .measures import Measure, summarise
from .reopening import digest
from .results import Run, parse_runs, read_runs

TEMPLATE = Path(__file__).with_name("model_card_template.md")
# A card with this line is rendered anew when its folder is pushed; one without it is the user's.
RENDERED = (
    "<!-- Rendered by vit_hf from the files beside it. To edit it by hand, delete this line. -->"
)
# What a `recipe.json` holds beside the arguments of the training (`vit-hf recipes --json`).
RECIPE_PROSE = ("name", "source", "task", "table", "row", "description", "dataset", "expected")
RECIPE_PROSE += ("starts_from", "notes", "remarks", "model", "changed")


def render_card(
    folder,
    *,
    config: VisionTransformerConfig | None = None,
    name: str | None = None,
    results: Mapping | Sequence[Mapping] | None = None,
    pictures: dict[str, str] | None = None,
    repo_id: str | None = None,
) -> Path:
    """Writes the model card `README.md` of an exported folder.

    Everything comes from the folder: `config.json`, `preprocessor_config.json`, the weights' sizes,
    and where they are there `results.json` (`vit_hf.hub.results`), `recipe.json` and
    `parity.json`, the passport of a conversion, which is told where it is of these weights.

    Args:
        folder: the exported folder.
        config: the model's configuration; `None` is the folder's.
        name: the title; `None` is the run's `model_name`, or else the repository's or the folder's.
        results: the content of a `results.json`; `None` is the folder's.
        pictures: captions of pictures in the folder, by path relative to it; `None` are the run's.
        repo_id: the Hub id that the card shows how to open; `None` is the folder itself.

    Returns:
        The card's path.

    Raises:
        ValueError: for a folder that is no exported checkpoint, a `results.json` that is no account
            of a run, and a `recipe.json` that does not say where it is from.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"got {folder}, which has no config.json; give an exported folder")
    runs = find_runs(folder) if results is None else parse_runs(results)
    recipe, parity = read_if_there(folder / "recipe.json"), find_passport(folder)
    if recipe and not {"name", "source"} <= set(recipe):
        raise ValueError(f"{folder / 'recipe.json'} lacks name or source; it has {list(recipe)}")
    if name is None:
        name = runs[0].model_name if runs else (repo_id or folder.resolve().name).split("/")[-1]
    if pictures is None:
        pictures = next((run.pictures for run in runs), {})
    saved = read_if_there(folder / "config.json")
    task = task_of(saved)
    card = ModelCard.from_template(
        metadata(runs, name=name, task=task),
        template_path=str(TEMPLATE),
        marker=RENDERED,
        name=name,
        model=repo_id or str(folder),
        task=task,
        predicts_patches=any("MaskedPatch" in name for name in saved.get("architectures") or []),
        config=config or VisionTransformerConfig.from_pretrained(folder),
        num_parameters=count_parameters(folder),
        preprocessing=describe(read_if_there(folder / "preprocessor_config.json")),
        license=license_of(runs),
        runs=runs,
        measures=summarise(runs),
        commands=list(dict.fromkeys(run.command for run in runs)),
        recipe=recipe,
        recipe_arguments={key: value for key, value in recipe.items() if key not in RECIPE_PROSE},
        parity=parity,
        pictures=pictures,
    )
    card.save(folder / "README.md")
    return folder / "README.md"


def refresh_card(folder, **options: Any) -> bool:
    """Renders the card anew, unless it was written or edited by hand; returns whether it was
    rendered. The options are those of `render_card`.
    """
    card = Path(folder) / "README.md"
    if card.is_file() and RENDERED not in card.read_text(encoding="utf-8"):
        return False
    render_card(folder, **options)
    return True


def license_of(runs: list[Run]) -> str | None:
    """Returns the licence of the weights, which only those who trained them can name."""
    return runs[0].settings.get("license") if runs else None


def metadata(runs: list[Run], *, name: str, task: str) -> ModelCardData:
    """Returns what the Hub searches and sorts by."""
    own = [metric for run in runs for metric in run.metrics if metric.of is None]
    ids = dict.fromkeys(run.dataset.hub_id for run in runs if run.dataset.hub_id)
    return ModelCardData(
        license=license_of(runs),
        library_name="transformers",
        pipeline_tag=task,
        tags=["vision", "vision-transformer", "vit", "vit_hf"],
        base_model=runs[0].base_model_hub_id if runs else None,
        datasets=list(ids) or None,
        metrics=list(dict.fromkeys(metric.name for metric in own)) or None,
        model_name=name if runs else None,  # the model index has it
        eval_results=model_index(runs[0]) if runs else None,
    )


def model_index(run: Run) -> list[EvalResult] | None:
    """Returns the numbers of the weights in the folder, in the form of the Hub's model index."""
    return [
        EvalResult(
            task_type=run.task,
            dataset_type=run.dataset.hub_id or run.dataset.name,
            dataset_name=run.dataset.name,
            dataset_split=metric.split,
            metric_type=metric.name,
            metric_name=Measure.title(metric),
            metric_value=metric.value,
        )
        for metric in run.metrics
        if metric.of is None
    ] or None


def task_of(config: dict) -> str:
    """Returns the pipeline that opens the weights."""
    is_classifier = any("Classification" in name for name in config.get("architectures") or [])
    return "image-classification" if is_classifier else "image-feature-extraction"


def find_runs(folder: Path) -> list[Run]:
    """Returns the runs that the folder's `results.json` tells of, none where it has none."""
    path = folder / "results.json"
    return read_runs(path) if path.is_file() else []


def find_passport(folder: Path) -> dict:
    """Returns the content of the folder's `parity.json`; an empty dict where it has none, or one of
    other weights.
    """
    passport = read_if_there(folder / "parity.json")
    belongs = passport.get("weights_sha256") in (None, digest(folder / "model.safetensors"))
    return passport if belongs else {}


def read_if_there(path: Path) -> dict:
    """Returns the content of a JSON file; an empty dict where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def count_parameters(folder: Path) -> int:
    """Returns the number of parameters in a folder's weights, whose headers alone are read."""
    total = 0
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            total += sum(prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    return total


def describe(preprocessing: dict) -> list[str]:
    """Returns the steps that an image processor's settings make of an image, in words."""
    steps = ["converted to RGB"] if preprocessing.get("do_convert_rgb") else []
    if preprocessing.get("do_resize"):
        kernel = Resampling(preprocessing.get("resample", Resampling.BILINEAR)).name.lower()
        steps.append(f"resized to {in_pixels(preprocessing['size'])} ({kernel})")
    if preprocessing.get("do_center_crop"):
        steps.append(f"cropped to the central {in_pixels(preprocessing['crop_size'])}")
    if preprocessing.get("do_rescale"):
        steps.append(f"scaled by {preprocessing['rescale_factor']:.6g}")
    if preprocessing.get("do_normalize"):
        mean, deviation = (preprocessing[key] for key in ("image_mean", "image_std"))
        steps.append(f"normalised with mean {mean} and deviation {deviation}")
    return steps


def in_pixels(size: dict) -> str:
    """Returns a processor's size in words."""
    if size.get("shortest_edge"):
        return f"{size['shortest_edge']} pixels on the shorter side"
    return f"{size['height']}x{size['width']} pixels"
