# SPDX-License-Identifier: Apache-2.0
"""The paper's claims at a scale that anyone can run: one file each, results as JSON and a figure.

A study is a list of arms that differ in one thing each (`study`). Each arm is trained with several
seeds (`training`, `running`), at one of a few sizes (`scale`).
"""

from .data_hunger import DATA_HUNGER
from .higher_resolution import HIGHER_RESOLUTION
from .masked_patch_prediction import MASKED_PATCH_PREDICTION
from .positions import POSITIONS_AND_POOLING
from .study import Arm, Panel, Study

STUDIES = {
    study.name: study
    for study in (DATA_HUNGER, POSITIONS_AND_POOLING, MASKED_PATCH_PREDICTION, HIGHER_RESOLUTION)
}

__all__ = ["STUDIES", "Arm", "Panel", "Study"]
