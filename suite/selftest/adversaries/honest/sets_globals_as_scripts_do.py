"""Sets at its top what scripts set there: variables, seeds, gradients, precision, paths, warnings."""

from __future__ import annotations

import os
import random
import sys
import warnings

import numpy as np
import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "settings at import"
RUNS_ON = ("cpu", "cuda")

os.environ["TORCH_CUDA_ARCH_LIST"] = "9.0"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, os.path.dirname(__file__))
warnings.filterwarnings("ignore", module="somewhere")
np.seterr(all="ignore")
random.seed(0)
torch.manual_seed(0)
torch.set_grad_enabled(False)
torch.set_float32_matmul_precision("high")
torch.backends.cudnn.benchmark = True


def run(inputs, state):
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
