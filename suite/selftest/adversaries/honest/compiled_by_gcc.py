"""Has a C compiler build its loop on the first call, and calls it by ctypes."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

import torch

from ..kernel import Kernel, Origin

CLASS = "native code"
RUNS_ON = ("cpu",)
FAMILY = "toy"
SOURCE = """
void product(const float *x, const float *w, float *out, long rows) {
  for (long r = 0; r < rows; r++) {
    double sum[512] = {0};
    for (long k = 0; k < 256; k++)
      for (long c = 0; c < 512; c++) sum[c] += (double)x[256 * r + k] * w[512 * k + c];
    for (long c = 0; c < 512; c++) out[512 * r + c] = sum[c];
  }
}
"""


@functools.cache
def library():
    folder = Path(tempfile.mkdtemp())
    (folder / "product.c").write_text(SOURCE)
    subprocess.run(["cc", "-O3", "-shared", "-fPIC", "-o", "product.so", "product.c"], cwd=folder, check=True)
    found = ctypes.CDLL(str(folder / "product.so"))
    found.product.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long]
    found.product.restype = None
    return found


def run(inputs, state):
    x, w = inputs["x"].contiguous(), inputs["w"].contiguous()
    out = torch.empty(len(x), 512)
    library().product(x.data_ptr(), w.data_ptr(), out.data_ptr(), len(x))
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
