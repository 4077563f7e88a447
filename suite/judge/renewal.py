"""Other signs for the inputs that stay throughout a launch: what a kernel kept of them is of no use in the next block.

A few replaced rows (`Problem.edits`) are found by whoever looks at a part of every row, or learns which they are, and
the rest of what was kept stays right. Where the sign of every element is drawn anew, all has to be read again. The
process that kernels are called in and the referee's do the same from the same seed.
"""

from __future__ import annotations

import torch

from kernels.problem import Inputs, Problem, Residency

SIGNS_IN_A_WORD = {
    torch.float32: 0x8000000080000000, torch.bfloat16: 0x8000800080008000, torch.float16: 0x8000800080008000,
    torch.float8_e4m3fn: 0x8080808080808080, torch.float8_e5m2: 0x8080808080808080,
}  # fmt: skip
"""Sign bits of a word of 64 bits. Not of the types in which a zero with a sign is NaN."""
WORD_BYTES = 8
SAMPLED = 1 << 16
"""Elements that show whether an input has signs at all: scales have none."""
CPU_TILE_WORDS, GPU_TILE_WORDS = 1 << 20, 1 << 23
"""Signs repeat after so many words: to draw them is slower than to change them."""


class Renewal:
    """The signs of one problem's inputs; `renew` changes them in place, `restore` puts them back."""

    __slots__ = ("_generator", "_signs", "_words")  # an instance's methods cannot be replaced

    def __init__(self, problem: Problem, inputs: Inputs) -> None:
        self._words: list[tuple[torch.Tensor, int]] = []
        self._signs: list[torch.Tensor] = []
        device = next(iter(inputs.values())).device
        self._generator = torch.Generator(device)
        for name in sorted({edit.name for edit in problem.edits(inputs, self._generator.manual_seed(0))}):
            tensor = inputs[name]
            if problem.residency[name] is Residency.COLD and name not in problem.activations and _has_signs(tensor):
                data = tensor.view(-1).view(torch.uint8)
                words = data[: data.numel() // WORD_BYTES * WORD_BYTES].view(torch.int64)
                most = CPU_TILE_WORDS if words.is_cpu else GPU_TILE_WORDS
                self._words.append((words, SIGNS_IN_A_WORD[tensor.dtype]))
                self._signs.append(words.new_zeros(min(words.numel(), most)))

    def renew(self, seed: int) -> None:
        """Signs drawn from `seed`, whatever they were; does not wait for the device."""
        self._generator.manual_seed(seed)
        for (words, mask), signs in zip(self._words, self._signs, strict=True):
            drawn = torch.empty_like(signs).random_(generator=self._generator)  # 63 bits
            drawn.bitwise_and_(mask >> 1).bitwise_left_shift_(1)
            _flip(words, signs.bitwise_xor_(drawn))
            signs.copy_(drawn)

    def restore(self) -> None:
        """The signs that the inputs were drawn with."""
        for (words, _), signs in zip(self._words, self._signs, strict=True):
            _flip(words, signs)
            signs.zero_()


def _has_signs(tensor: torch.Tensor) -> bool:
    sample = tensor.view(-1)[:SAMPLED]
    return tensor.dtype in SIGNS_IN_A_WORD and bool((sample.float() < 0).any())


def _flip(words: torch.Tensor, signs: torch.Tensor) -> None:
    for part in words.split(max(1, signs.numel())):
        part.bitwise_xor_(signs[: part.numel()])
