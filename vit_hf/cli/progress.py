# SPDX-License-Identifier: Apache-2.0
"""Progress bars of the libraries underneath, which each have a switch of their own."""


def hide_progress_bars() -> None:
    """Hides the bars of datasets, transformers and huggingface_hub in this process."""
    from datasets import disable_progress_bars
    from huggingface_hub.utils import disable_progress_bars as disable_download_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bars()
    disable_download_bars()
    disable_progress_bar()
