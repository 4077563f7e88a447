"""What a kernel may know about the device that it plans for.

Launch decisions are pure functions of a problem and a `Device`, never of the GPU that happens to be present, so
that a laptop compiles exactly what an MI300X would run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Device:
    """The properties of one device that launch decisions depend on."""

    kind: Literal["cuda", "hip", "cpu"]
    """Programming model. `hip` devices are called "cuda" by PyTorch; see `torch_name`."""
    arch: str
    """Compiler target: `sm_90`, `gfx942`, or the machine of a CPU (`x86_64`)."""
    num_sms: int
    """Streaming multiprocessors, compute units, or CPU cores."""
    shared_memory_bytes: int
    """Most shared memory (LDS) that one block may use; 0 on a CPU."""
    warp_size: int
    """Threads in a warp (wavefront); 1 on a CPU."""
    fp8_dtype: str | None
    """Name in torch of the native e4m3 type: `float8_e4m3fn`, `float8_e4m3fnuz`, or None."""

    @property
    def torch_name(self) -> str:
        """The device string that PyTorch expects."""
        return "cpu" if self.kind == "cpu" else "cuda"

    @property
    def compute_capability(self) -> int:
        """The number in `sm_NN`, or 0 where the device is not NVIDIA's."""
        return int(self.arch.removeprefix("sm_")) if self.arch.startswith("sm_") else 0
