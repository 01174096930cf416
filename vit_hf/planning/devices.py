# SPDX-License-Identifier: Apache-2.0
"""The devices that training can be planned for: one table, each row with its source.

Datasheets that state tensor cores "with sparsity" are halved: training is dense. They state
interconnects both ways; here it is one way. Their gigabytes are taken as 10^9 bytes, and boards
hold 2^30 for each, so that some of it is left for the driver and the allocator.
"""

import difflib
from dataclasses import dataclass

GIGA, TERA = 10**9, 10**12


@dataclass(frozen=True)
class Device:
    """What a device can do at best.

    Args:
        name: what `--device_type` takes.
        half_dtype: the 16-bit type of its matrix units: bfloat16 where they have it.
        half_flops: operations a second in that type, dense, summed in float32.
        float32_flops: operations a second in float32, as PyTorch computes by default: without TF32.
            `None` where nobody states it.
        memory: bytes.
        memory_bandwidth: bytes a second; `None` where it is not known.
        interconnect: bytes a second that it sends to its neighbours while it receives as many;
            `None` where it is not known.
        source: the document with these numbers.
        is_accelerator: or a CPU.
    """

    name: str
    half_dtype: str
    half_flops: float
    float32_flops: float | None
    memory: float
    memory_bandwidth: float | None
    interconnect: float | None
    source: str
    is_accelerator: bool = True

    @property
    def default_dtype(self) -> str:
        """The type that training takes where nobody says: bfloat16, or else float32."""
        return "bfloat16" if self.half_dtype == "bfloat16" else "float32"

    def flops(self, dtype: str) -> float:
        """Returns the operations a second in a type.

        Raises:
            ValueError: for a type that it has not.
        """
        found = {self.half_dtype: self.half_flops, "float32": self.float32_flops}.get(dtype)
        if found is None:
            allowed = [self.half_dtype] + ["float32"] * (self.float32_flops is not None)
            raise ValueError(
                f"got dtype={dtype!r} for {self.name}, allowed: {', '.join(allowed)}, whose speed "
                "its datasheet states"
            )
        return found


NVIDIA = [  # teraFLOP/s in 16 bits and in float32; GB; GB/s of the memory, and of the link one way
    ("h200", "bfloat16", 989.5, 67, 141, 4800, 450, "NVIDIA H200 datasheet: SXM, NVLink 900 GB/s"),
    ("h100", "bfloat16", 989.5, 67, 80, 3350, 450, "NVIDIA H100 datasheet: SXM, NVLink 900 GB/s"),
    ("a100-80gb", "bfloat16", 312, 19.5, 80, 2039, 300, "NVIDIA A100 datasheet: SXM, 80 GB"),
    ("a100-40gb", "bfloat16", 312, 19.5, 40, 1555, 300, "NVIDIA A100 datasheet: SXM, 40 GB"),
    ("v100", "float16", 125, 15.7, 32, 900, 150, "NVIDIA V100 datasheet: SXM2, 32 GB"),
    ("l4", "bfloat16", 121, 30.3, 24, 300, 32, "NVIDIA L4 datasheet: PCIe Gen4 x16, 64 GB/s"),
    ("t4", "float16", 65, 8.1, 16, 320, 16, "NVIDIA T4 datasheet: PCIe Gen3 x16, 32 GB/s"),
    (
        "rtx-4090", "bfloat16", 165.2, 82.6, 24, 1008, 32,
        "NVIDIA Ada GPU Architecture whitepaper, appendix A: PCIe Gen4 x16",
    ),
]  # fmt: skip
# Half a chip, as the paper counts cores; all-reduce of a pod of 2048 cores: 340 TB/s.
TPU_V3_CORE = Device(
    "tpu-v3-core",
    half_dtype="bfloat16",
    half_flops=123 * TERA / 2,
    float32_flops=None,
    memory=16 * 2**30,
    memory_bandwidth=900 * GIGA / 2,
    interconnect=340 * TERA / 2048,
    source="Google Cloud documentation, TPU v3: a chip has 123 TFLOP/s, 32 GiB, 900 GB/s",
)
DEVICES = {
    name: Device(
        name, dtype, half * TERA, single * TERA, gb * GIGA, gbs * GIGA, link * GIGA, source
    )
    for name, dtype, half, single, gb, gbs, link, source in NVIDIA
} | {TPU_V3_CORE.name: TPU_V3_CORE}


def get_device(name: str) -> Device:
    """Returns a device of the table.

    Raises:
        ValueError: for a name that is not in it, with the nearest that is.
    """
    if name not in DEVICES:
        nearest = [known for known in DEVICES if name and known.startswith(name.lower())]
        nearest = nearest or difflib.get_close_matches(name.lower(), DEVICES, n=1, cutoff=0.4)
        hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
        raise ValueError(f"got device_type={name!r}, allowed: {', '.join(DEVICES)}, cpu.{hint}")
    return DEVICES[name]
