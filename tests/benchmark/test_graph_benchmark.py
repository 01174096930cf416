# SPDX-License-Identifier: Apache-2.0
"""`vit-hf benchmark model --graph`: our exported graph against peers in PyTorch."""

import pytest

from vit_hf.benchmark.options import ModelOptions
from vit_hf.benchmark.report import lines_of


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["torch_export", "int8"])
def test_ours_is_the_graph(tiny, run_here, graph):
    if graph == "int8":
        pytest.importorskip("onnxruntime")
    options = ModelOptions(peers=["transformers"], graph=graph, **tiny)
    results = run_here(options)
    peer = results["peers"]["transformers"]
    assert results["ours"]["settings"] == {"graph": graph}
    assert 0 < peer["difference"] <= peer["allowed_difference"]
    for found in (results["ours"], peer):
        assert found["served_images_per_second"] > 0
    lines = "\n".join(lines_of(results))
    assert f"as an {graph} graph, peers in float32" in lines
    assert lines.count("through a pipeline") == 2


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"graph": "onx"}, "Did you mean 'onnx'"),
        ({"graph": "torch_export", "mode": "train"}, "--mode train"),
        ({"graph": "torch_export", "dtype": "bfloat16"}, "--dtype bfloat16"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny, settings, named):
    with pytest.raises(ValueError, match=named):
        ModelOptions(**tiny, **settings)
