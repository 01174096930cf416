# SPDX-License-Identifier: Apache-2.0
"""The model card, rendered from a file of results: every number in it was written by a run."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATE = Path(__file__).with_name("model_card_template.md")


def render_card(folder, results: dict, *, config, pictures: dict[str, str] | None = None) -> Path:
    """Writes the model card `README.md` of an exported folder.

    Args:
        folder: the exported folder.
        results: what `results.json` holds: `dataset`, `accuracy`, `num_test_images`, `seed`,
            `command` and whatever else the run measured.
        config: the model's configuration.
        pictures: captions of pictures in the folder, by path relative to it.

    Returns:
        The card's path.
    """
    folder = Path(folder)
    metadata = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["vision", "vision-transformer", "vit", "vit_hf"],
        metrics=["accuracy"],
        model_name=results["model_name"],
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=results["dataset"],
                dataset_name=results["dataset"],
                metric_type="accuracy",
                metric_value=results["accuracy"],
            )
        ],
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        results=results,
        config=config,
        pictures=pictures or {},
    )
    card.save(folder / "README.md")
    return folder / "README.md"
