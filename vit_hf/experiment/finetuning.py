# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning (section 3.2, table 4): a fresh zero head, at a higher resolution where asked for."""

import time
from typing import Any

from transformers import set_seed

from ..hub.results import Run
from ..training import VisionTransformerTrainingArguments
from .arguments import ModelArguments, TrainingDataArguments
from .inputs import class_names, make_inputs, open_images
from .models import make_image_processor, make_model
from .results import account, called, hub_id_of
from .running import (
    check_output_dir,
    evaluate_splits,
    finish,
    make_trainer,
    phase_of,
    recipe_of,
    train,
)


def finetune(
    model_arguments: ModelArguments,
    data: TrainingDataArguments,
    training: VisionTransformerTrainingArguments,
    *,
    images=None,
    sweep: list[dict[str, Any]] | None = None,
) -> Run:
    """Fine-tunes a classifier and writes it, with its card and results, to `training.output_dir`.

    Args:
        model_arguments: which model.
        data: which images.
        training: how; `output_dir` is where everything goes.
        images: the splits, where they are open already (the sweep's).
        sweep: the account of a sweep, for the results.

    Returns:
        The account of the run, which `results.json` holds.
    """
    started = time.perf_counter()
    check_output_dir(model_arguments, data, training)
    images = open_images(data, require_labels=True) if images is None else images
    set_seed(training.seed)
    model: Any = make_model(model_arguments, task="image-classification", names=class_names(images))
    inputs = make_inputs(images, data, config=model.config, seed=training.seed, masked=False)
    processor = make_image_processor(model_arguments, model.config)
    trainer = make_trainer(model, inputs, training, image_processor=processor)
    train(trainer, data.dataset_name, recipe=model_arguments.recipe)
    start = model_arguments.model_name_or_path
    origin = (
        "from scratch" if start is None or model_arguments.from_scratch else f"from {called(start)}"
    )
    run = account(
        model_name=f"ViT fine-tuned on {called(data.dataset_name)} {origin}",
        task="image-classification",
        dataset_name=data.dataset_name,
        images=images,
        seed=training.seed,
        settings=[model_arguments, data],
        recipe=model_arguments.recipe,
        base_model=None if model_arguments.from_scratch else start,
        base_model_hub_id=None if model_arguments.from_scratch else hub_id_of(start),
        phases=[phase_of(trainer, "fine-tuning")],
        metrics=evaluate_splits(trainer, inputs),
        details={"num_parameters": model.num_parameters(), "sweep": sweep},
        seconds=time.perf_counter() - started,
    )
    return finish(trainer, run, recipe=recipe_of(training, model_arguments, data))
