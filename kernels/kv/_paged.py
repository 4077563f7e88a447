"""What the tasks that append to a paged cache share: which tokens are new, and where in the cache they go.

`tokens` new tokens of `seqs` sequences, in the order of the sequences. A sequence that holds c tokens already gives its
j-th new one the position c + j, which is token (c + j) % page_size of a page. Each page that is written lies anywhere
among the last 16384 of the cache; no two sequences share one.

    positions     [tokens]  int64; padding tokens have valid ones as well
    slot_mapping  [tokens]  int64: page * page_size + token of the page; negative for `padding` tokens, which lie
                            anywhere among the others and are not written
    *_cache       [num_pages, page_size, ...] cache_dtype, contiguous; all but the rows of these slots stays as it is

What is stored of a value x is x itself, or in an e4m3 cache x / scale, rounded to nearest even; beyond the largest
finite value of the type, that value.
"""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..problem import Edit, Inputs, NullKernel, Problem, Residency, TensorSpec, Tolerance, tagged

if TYPE_CHECKING:
    import torch

    from ..device import Device

LENGTHS = ("equal", "skewed")
BF16_EPS = 2**-8
"""The largest error of a rounding to bf16, relative to its result."""
COPIED = Tolerance(rtol=0.0, relative_rms=0.0)
"""Values that are only moved have no rounding."""
DISTRIBUTIONS = ("normal", "wide")
WIDE_SCALE = 4.0
"""Some values are then past what an e4m3 cache with a scale of 0.02 can hold."""
LAST_PAGES = 16384
"""Those that are written: in a huge cache they lie where 32-bit offsets do not reach."""
MOST_WARM_BYTES = 32 << 20
"""Of all activations: what a layer writes beyond that has left an L2 of 50 MB by the time the next kernel reads it."""
FILL_ROWS = 1 << 16
"""Rows of a cache that are drawn at once: what lies in it must not be uniform, but nobody reads it."""


def rotation_tolerance(dtype: str) -> Tolerance:
    """x * cos - y * sin with every product and the difference rounded to `dtype`, as libraries do it.

    A rounding errs by eps of its result at most; the products are up to 6 rms large. Its RMS error is 0.42 eps, that of
    three of them 0.73 eps.
    """
    eps = BF16_EPS if dtype == "bfloat16" else 2**-11
    return Tolerance(atol_rms=6 * eps, rtol=eps, relative_rms=eps)


def e4m3_tolerance(rotated: bool) -> Tolerance:
    """Values as stored. Two roundings that fall on different sides differ by a step of the type: 1/8 of a value, or
    2^-9 below the least normal number.

    A step has 16 steps of bf16. After a rotation that was rounded to bf16 the two fall apart for one value in 32, and a
    step is 0.09 of a value in the mean: an RMS error of 0.016. A rotation in bf16 itself adds the absolute error of
    `rotation_tolerance`. A value that was only divided meets a tie about never.
    """
    if rotated:
        return Tolerance(rtol=2**-3, atol=2**-9, atol_rms=6 * BF16_EPS, relative_rms=0.03)
    return Tolerance(rtol=2**-3, atol=2**-9, relative_rms=1e-3)


@dataclass(frozen=True)
class PagedAppend(Problem):
    """Base of the append tasks."""

    tokens: int = tagged("t")
    """New tokens, padding included."""
    seqs: int = tagged("s")
    lengths: str = tagged("", "equal")
    """How tokens, and what sequences hold already, are spread over sequences. `equal`: evenly. `skewed`: sequence i in
    proportion to 1 / (i + 1), in an order that is always the same."""
    context: int = tagged("c", 1024)
    """Tokens that the sequences hold already, in the mean."""
    padding: int = tagged("pad", 0)
    num_pages: int = tagged("np", 1024)
    page_size: int = tagged("p", 16)
    dtype: str = tagged("", "bfloat16")
    cache_dtype: str = tagged("kv", "bfloat16")
    """`dtype`, or an e4m3 type of `Device.fp8_dtype`."""

    family: ClassVar[str] = "kv"
    plan_inputs: ClassVar[tuple[str, ...]] = ("slot_mapping",)
    distributions: ClassVar[tuple[str, ...]] = DISTRIBUTIONS
    caches: ClassVar[tuple[str, ...]]
    """Inputs whose rows are written."""
    tables: ClassVar[tuple[str, ...]] = ()
    """Other inputs, but for slot_mapping."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.lengths not in LENGTHS:
            raise ValueError(f"{name}.lengths is {self.lengths!r}; it must be one of {', '.join(LENGTHS)}.")
        if self.cache_dtype != self.dtype and not self.cache_dtype.startswith("float8_e4m3"):
            raise ValueError(f"{name}.cache_dtype is {self.cache_dtype!r}; it must be {self.dtype} or an e4m3 type.")
        if not 0 <= self.padding < self.tokens or not 1 <= self.seqs <= self.tokens:
            raise ValueError(f"{name} needs 0 <= padding < tokens and 1 <= seqs <= tokens; it is {self}.")
        if self.pages_written > self.num_pages - self.first_page:
            raise ValueError(f"{name} writes {self.pages_written} pages; {self.num_pages} from {self.first_page} on.")

    @property
    def residency(self) -> Mapping[str, Residency]:  # type: ignore[override]
        """It depends on how many tokens there are."""
        return residencies(self.caches, self.activations, self.activation_bytes, (*self.tables, "slot_mapping"))

    @property
    @abstractmethod
    def activation_bytes(self) -> int:
        """Of all activations."""

    @property
    def cold_activation_bytes(self) -> int:
        """Of activations that a call must fetch from memory."""
        return self.activation_bytes if self.activation_bytes > MOST_WARM_BYTES else 0

    @property
    def is_fp8(self) -> bool:
        """Whether the cache holds scaled e4m3 values."""
        return self.cache_dtype != self.dtype

    @property
    def written(self) -> int:
        """Tokens that are not padding."""
        return self.tokens - self.padding

    @property
    def first_page(self) -> int:
        """The lowest page that may be written."""
        return max(0, self.num_pages - LAST_PAGES)

    @property
    def max_position(self) -> int:
        """One more than the largest position."""
        return max(context + new for context, new in self._sequences())

    @property
    def pages_written(self) -> int:
        """Pages that hold a new token, were none of them padding."""
        return sum((c + n - 1) // self.page_size - c // self.page_size + 1 for c, n in self._sequences() if n)

    def _sequences(self) -> list[tuple[int, int]]:
        """(tokens held, new tokens) of every sequence: always the same, so that every launch has the same work."""
        share = [1.0 / (i + 1) if self.lengths == "skewed" else 1.0 for i in range(self.seqs)]
        random.Random(0).shuffle(share)
        total = sum(share)
        ends = [round((self.tokens - self.seqs) * sum(share[: i + 1]) / total) for i in range(self.seqs)]
        new = [1 + end - start for end, start in zip(ends, [0, *ends], strict=False)]
        return [(round(self.context * self.seqs * part / total), n) for part, n in zip(share, new, strict=True)]

    def _draw_slots(self, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(positions, slot_mapping), each [tokens] int64 on the CPU."""
        import torch

        generator = torch.Generator().manual_seed(seed + 1)
        free = (self.first_page + torch.randperm(self.num_pages - self.first_page, generator=generator)).tolist()
        positions, slots = [], []
        for context, new in self._sequences():
            position = torch.arange(context, context + new)
            page = position // self.page_size - context // self.page_size
            own = torch.tensor([free.pop() for _ in range(int(page[-1]) + 1)])
            positions.append(position)
            slots.append(own[page] * self.page_size + position % self.page_size)
        slot_mapping = torch.cat(slots)
        skipped = torch.randperm(self.tokens, generator=generator)[: self.padding]
        slot_mapping[skipped] = -torch.randint(1, 2 * self.page_size, (self.padding,), generator=generator)
        return torch.cat(positions), slot_mapping

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        for name in self.activations:
            inputs[name].normal_(generator=generator)

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        """None: all that is read besides activations are slots, and these say which rows are outputs."""
        return []

    def updated_rows(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        slots = inputs["slot_mapping"]
        if self.padding:  # without a wait for the device, which boolean indexing would be
            slots = slots[(slots < 0).int().argsort(stable=True)[: self.written]]
        return {name: _rows_of_slots(slots, inputs[name]) for name in self.caches}

    def shorten(self, inputs: Inputs, generator: torch.Generator) -> bool:
        """Every token goes where another one went: as many tokens, the same rows."""
        for name in self.plan_inputs:
            inputs[name].copy_(inputs[name].roll(1))
        return True

    def cache_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every cache past [num_pages, page_size]."""
        return dict.fromkeys(self.caches, self.row_shape)

    @property
    @abstractmethod
    def row_shape(self) -> tuple[int, ...]:
        """Of one token in a cache."""

    def _empty_caches(self, device: str) -> Inputs:
        import torch

        dtype = getattr(torch, self.cache_dtype)
        shape = (self.num_pages, self.page_size, *self.row_shape)
        return {name: torch.empty(shape, dtype=dtype, device=device) for name in self.caches}

    def _filled_caches(self, generator: torch.Generator) -> Inputs:
        """Caches full of old tokens: the same drawn rows over and over."""
        caches = self._empty_caches(str(generator.device))
        for cache in caches.values():
            rows = cache.view(-1, math.prod(self.row_shape))
            first = rows[:FILL_ROWS]
            drawn = first.new_empty(first.shape, dtype=_drawn_as(self.dtype)).normal_(generator=generator)
            for part in rows.split(FILL_ROWS):
                part.copy_(drawn[: len(part)])
        return caches

    def updated_specs(self) -> dict[str, TensorSpec]:
        """What calls leave in the caches."""
        rows = self.written * math.prod(self.row_shape[:-1])
        return {name: TensorSpec((rows, self.row_shape[-1]), self.cache_dtype) for name in self.caches}

    def cache_bytes(self) -> int:
        """Of all caches, and of the rows that are written in them."""
        return len(self.caches) * self.num_pages * self.page_size * math.prod(self.row_shape) * self.cache_itemsize

    @property
    def written_bytes(self) -> int:
        """Written into all caches."""
        return len(self.caches) * self.written * math.prod(self.row_shape) * self.cache_itemsize

    @property
    def cache_itemsize(self) -> int:
        """Bytes of a stored value."""
        return 1 if self.is_fp8 else 2

    def cut(self) -> Problem:
        """A few tokens of a few sequences into a small cache."""
        tokens = min(self.tokens, 12)
        return replace(
            self, tokens=tokens, seqs=min(self.seqs, 3, tokens), context=min(self.context, 100),
            padding=min(self.padding, tokens // 4), num_pages=64,
        )  # fmt: skip

    def unsupported_by(self, device: Device) -> str | None:
        return fp8_unsupported(self.dtype, self.cache_dtype, device)

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import null_kernels

        return null_kernels(self)


def fp8_unsupported(dtype: str, cache_dtype: str, device: Device) -> str | None:
    """Why `device` cannot hold a cache of this type, or None."""
    if cache_dtype not in (dtype, device.fp8_dtype) and device.kind != "cpu":
        return f"{device.arch} has no {cache_dtype} (its e4m3 type is {device.fp8_dtype or 'none'})"
    return None


def residencies(
    caches: tuple[str, ...], activations: tuple[str, ...], activation_bytes: int, tables: tuple[str, ...]
) -> Mapping[str, Residency]:
    """Caches are cold, tables and indices warm; activations are warm as long as a last-level cache can hold them."""
    of_activations = Residency.WARM if activation_bytes <= MOST_WARM_BYTES else Residency.COLD
    return {
        **dict.fromkeys(caches, Residency.COLD),
        **dict.fromkeys(activations, of_activations),
        **dict.fromkeys(tables, Residency.WARM),
    }


def draw_rows(shape: tuple[int, ...], dtype: str, distribution: str, generator: torch.Generator) -> torch.Tensor:
    """Activations."""
    import torch

    rows = torch.empty(shape, dtype=getattr(torch, dtype), device=generator.device)
    return rows.normal_(0, {"normal": 1.0, "wide": WIDE_SCALE}[distribution], generator=generator)


def _drawn_as(dtype: str) -> torch.dtype:
    """8-bit floats cannot be drawn."""
    import torch

    found: torch.dtype = getattr(torch, dtype)
    return found


def _rows_of_slots(slots: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
    """Rows of a cache seen as [rows, last dimension], token by token."""
    import torch

    per_slot = math.prod(cache.shape[2:-1])
    return (slots[:, None] * per_slot + torch.arange(per_slot, device=slots.device)).flatten()
