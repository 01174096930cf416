# SPDX-License-Identifier: Apache-2.0
"""Drop path that sets in slowly: its rates rise linearly over the first share of training.

Strong regularisation costs most where there is little to regularise yet. Rates stay linear in
depth, as `modeling.encoder` has them; each is a function of the step alone, so a resumed training
and every process have the same. The configuration, and so each checkpoint, keeps the full rate.
"""

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from ..modeling.encoder import DropPath


class DropPathSchedule(TrainerCallback):
    """Raises the rates of a model's drop path from 0 to what they were when training began.

    Args:
        share: of the training's steps, over which they rise.
    """

    def __init__(self, share: float):
        if not 0 < share <= 1:
            raise ValueError(
                f"got a drop path warm-up over a share of {share} of the training, allowed: more "
                "than 0 and at most 1"
            )
        self.share = share
        self.rates: dict[DropPath, float] = {}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **kwargs,
    ):
        """Notes the full rates.

        Raises:
            ValueError: where they are all 0.
        """
        paths = [module for module in model.modules() if isinstance(module, DropPath)]
        # Those of a training that broke off are still on their way up.
        self.rates = {path: self.rates.get(path, path.rate) for path in paths}
        if not any(self.rates.values()):
            raise ValueError(
                "got a drop path warm-up for a model without drop path, allowed: a "
                "drop_path_rate above 0; set one, or leave the warm-up out"
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ):
        """Sets the rates of the step."""
        factor = min(1.0, state.global_step / (self.share * state.max_steps))
        for path, rate in self.rates.items():
            path.rate = factor * rate

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ):
        """Leaves the model with its full rates."""
        for path, rate in self.rates.items():
            path.rate = rate
