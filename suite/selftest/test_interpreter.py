"""The interpreter's repair for bfloat16 agrees with PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from suite.measure.interpreter import bf16_bits

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
PRODUCT = """
import torch, triton, triton.language as tl
from suite.measure.interpreter import mend
mend()

@triton.jit
def product(a, b, out, N: tl.constexpr):
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at)).to(tl.bfloat16))

a, b = (torch.randn(16, 16).bfloat16() for _ in range(2))
out = torch.empty_like(a)
product[(1,)](a, b, out, N=16)
torch.testing.assert_close(out, (a.float() @ b.float()).bfloat16(), rtol=2**-7, atol=1e-5)
"""


def test_rounding_is_torchs() -> None:
    values = torch.randn(10_000) * 10.0 ** torch.randint(-30, 30, (10_000,))
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-40, 3.4e38])
    values = torch.cat([values, special])
    expected = values.bfloat16().view(torch.int16).numpy().view(np.uint16)
    finite = ~torch.isnan(values).numpy()
    assert (bf16_bits(values.numpy())[finite] == expected[finite]).all()
    assert np.isnan((bf16_bits(values.numpy()).astype(np.uint32) << 16).view(np.float32)[~finite]).all()


def test_a_bf16_product_is_right(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    script = tmp_path / "product.py"  # Triton reads a kernel's source from a file
    script.write_text(PRODUCT)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
