# SPDX-License-Identifier: Apache-2.0
"""The table of devices: whole, consistent, each row with its source."""

import pytest

from vit_hf.planning import DEVICES, get_device


@pytest.mark.parametrize("name", DEVICES)
def test_every_row(name):
    device = get_device(name)
    assert device.name == name and len(device.source) > 20
    assert device.flops(device.half_dtype) > (device.float32_flops or 0)
    assert 1e12 < device.half_flops < 1e15 and 1e10 < device.memory < 2e11
    assert device.interconnect < device.memory_bandwidth
    assert device.default_dtype in ("float32", device.half_dtype)


def test_what_a_device_has_not():
    assert get_device("t4").default_dtype == "float32"  # as the trainer, it has no bfloat16
    with pytest.raises(ValueError, match="for t4, allowed: float16, float32"):
        get_device("t4").flops("bfloat16")
    with pytest.raises(ValueError, match="for tpu-v3-core, allowed: bfloat16, whose"):
        get_device("tpu-v3-core").flops("float32")


def test_a_device_that_there_is_not():
    with pytest.raises(ValueError, match=r"allowed: h200, h100, .*cpu\. Did you mean 'a100-80gb'"):
        get_device("A100-80")
    with pytest.raises(ValueError, match=r"Did you mean 'a100-80gb' or 'a100-40gb'\?"):
        get_device("a100")
