# SPDX-License-Identifier: Apache-2.0
"""The model card of an exported folder, rendered from files of results: no number is typed in."""

import json
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATE = Path(__file__).with_name("model_card_template.md")


def render_card(
    folder, *, config, name: str, results: dict | None = None, pictures: dict | None = None
) -> Path:
    """Writes the model card `README.md` of an exported folder.

    A `parity.json` in the folder, the passport of a conversion, is told in the card.

    Args:
        folder: the exported folder.
        config: the model's configuration.
        name: the model's name.
        results: what a run's `results.json` holds, where the model was trained here.
        pictures: captions of pictures in the folder, by path relative to it.

    Returns:
        The card's path.
    """
    folder = Path(folder)
    parity = folder / "parity.json"
    metadata = ModelCardData(
        license="apache-2.0" if results else None,  # foreign weights keep their own
        library_name="transformers",
        pipeline_tag="image-classification" if config.num_labels else "image-feature-extraction",
        tags=["vision", "vision-transformer", "vit", "vit_hf"],
        model_name=name,
        metrics=["accuracy"] if results else None,
        eval_results=[accuracy_of(results)] if results else None,
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        config=config,
        name=name,
        folder=folder,
        results=results,
        parity=json.loads(parity.read_text()) if parity.is_file() else None,
        pictures=pictures or {},
    )
    card.save(folder / "README.md")
    return folder / "README.md"


def accuracy_of(results: dict) -> EvalResult:
    """Returns the accuracy of a run in the form of the Hub's model index."""
    return EvalResult(
        task_type="image-classification",
        dataset_type=results["dataset"],
        dataset_name=results["dataset"],
        metric_type="accuracy",
        metric_value=results["accuracy"],
    )
