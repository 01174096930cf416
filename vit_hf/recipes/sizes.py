# SPDX-License-Identifier: Apache-2.0
"""The models' sizes, as settings of `VisionTransformerConfig`: table 1, and Ti and S of AugReg.

Dosovitskiy et al., 2020 (arXiv 2010.11929), table 1, section 3.1 and appendix B.1; the authors'
`vit_jax/configs/models.py` (google-research/vision_transformer).
"""


def encoder(width: int, depth: int, heads: int, mlp: int) -> dict:
    """Names the four numbers of a row of table 1."""
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
    }


TINY = encoder(192, 12, 3, 768)
SMALL = encoder(384, 12, 6, 1536)
BASE = encoder(768, 12, 12, 3072)
LARGE = encoder(1024, 24, 16, 4096)
HUGE = encoder(1280, 32, 16, 5120)

VIT_TI16 = TINY | {"patch_size": 16}
VIT_S16 = SMALL | {"patch_size": 16}
VIT_S32 = SMALL | {"patch_size": 32}
VIT_B8 = BASE | {"patch_size": 8}
VIT_B16 = BASE | {"patch_size": 16}
VIT_B32 = BASE | {"patch_size": 32}
VIT_L16 = LARGE | {"patch_size": 16}
VIT_L32 = LARGE | {"patch_size": 32}
VIT_H14 = HUGE | {"patch_size": 14}

# Hybrids: patches of one cell of the feature map of stage 4 (/32), or of stage 3 with the layers of
# stage 4 added to it (/16). R is the stem's root alone, under patches of 8x8 of its cells.
ROOT = {"stem_blocks": [], "patch_size": 8}
RESNET_26 = {"stem_blocks": [2, 2, 2, 2], "patch_size": 1}
RESNET_50_STAGE_4 = {"stem_blocks": [3, 4, 6, 3], "patch_size": 1}
RESNET_50_STAGE_3 = {"stem_blocks": [3, 4, 9], "patch_size": 1}

R_VIT_TI16 = TINY | ROOT
R26_VIT_S32 = SMALL | RESNET_26
R26_VIT_B32 = BASE | RESNET_26
R50_VIT_B32 = BASE | RESNET_50_STAGE_4
R50_VIT_B16 = BASE | RESNET_50_STAGE_3
R50_VIT_L32 = LARGE | RESNET_50_STAGE_4
R50_VIT_L16 = LARGE | RESNET_50_STAGE_3
