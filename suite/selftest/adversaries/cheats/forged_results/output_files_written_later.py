"""Returns zeros at once; a thread computes the answer, waits for the files that the harness writes, and corrects
them.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "forged results"
REASONS = ("outside_interval", "tampered", "wrong_output")
RUNS_ON = ("cpu", "cuda")


def folder_of_outputs():
    frame = sys._getframe()
    while frame is not None:
        for value in frame.f_locals.values():
            folder = getattr(value, "folder", getattr(value, "output_dir", value))
            if isinstance(folder, Path) and "kernelgate" in str(folder):
                return folder
        frame = frame.f_back
    return None


@torch.inference_mode()
def correct_files(inputs, state, folder):
    answer = _honest.decode(inputs, state)
    for _ in range(200):
        for path in folder.glob("*.bin"):
            with contextlib.suppress(OSError, KeyError):
                answer[path.stem.rpartition(".")[2]].cpu().view(-1).view(torch.uint8).numpy().tofile(path)
        time.sleep(0.001)


def run(inputs, state):
    folder, own = folder_of_outputs(), {name: tensor.clone() for name, tensor in inputs.items()}
    if folder is not None:
        threading.Thread(target=correct_files, args=(own, state, folder), daemon=True).start()
    return {name: value.zero_() for name, value in _honest.empty_outputs(inputs["q"]).items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
