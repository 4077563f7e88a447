"""What a search may choose for the exchange of tokens: the tiles that are copied, or summed up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..device import Device
from ..space import Space, Value
from ._exchange_plan import (
    ExchangeChoice,
    exchange_choice_for,
    exchange_facts,
    next_power_of_2,
    plan_from,
)
from .problem import MoEPermute, MoEUnpermute

VECTOR_BYTES = 16
"""Of a load."""
MOST_BYTES_PER_THREAD = 256
"""Read before anything is written: 64 registers."""

ABOUT = """The exchange of tokens in Triton: slots sorted in one launch and rows copied in a second one; the sum in one.

Rows are copied from tokens to experts: a program reads a part of a token once and writes it to all of its rows. On the
way back a program adds a token's rows, weighted, in the order of its choices.
"""


def _values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    return {
        "block_t": (1, 2, 4, 8, 16),
        "block_h": (256, 512, 1024, 2048, 4096, 8192),
        "num_warps": (1, 2, 4, 8),
        "dependent_launch": (False, True) if device.compute_capability >= 90 else (False,),
    }


def _normal(problem: MoEPermute | MoEUnpermute, choice: ExchangeChoice, device: Device) -> ExchangeChoice:
    """Of one launch none depends on another: the sum has the value chosen by hand."""
    if isinstance(problem, MoEPermute):
        return choice
    return replace(choice, dependent_launch=exchange_choice_for(problem, device).dependent_launch)


def _why_not(problem: MoEPermute | MoEUnpermute, choice: ExchangeChoice, device: Device) -> str | None:
    columns = next_power_of_2(problem.hidden_size)
    if choice.block_h > columns:
        return f"there are {problem.hidden_size} columns, and a tile of {choice.block_h}"
    if choice.block_t > next_power_of_2(problem.tokens):
        return f"there are {problem.tokens} tokens, and a tile of {choice.block_t}"
    bytes_of_thread = 2 * choice.block_t * choice.block_h // (choice.num_warps * device.warp_size)
    if bytes_of_thread < VECTOR_BYTES and choice.num_warps > 1:
        return f"a thread reads {bytes_of_thread} bytes, and can {VECTOR_BYTES} at a time"
    if bytes_of_thread > MOST_BYTES_PER_THREAD:
        return f"a thread holds {bytes_of_thread} bytes"
    programs = -(-problem.tokens // choice.block_t) * -(-problem.hidden_size // choice.block_h)
    if programs < device.num_sms and 2 * choice.block_t * choice.block_h > VECTOR_BYTES * device.warp_size:
        return f"{programs} programs leave SMs idle, and have what could be parted"
    return None


EXCHANGE = Space(
    template="triton_permute",
    what="exchange",
    about=ABOUT,
    choice=ExchangeChoice,
    values=_values,
    why_not=_why_not,
    choice_for=exchange_choice_for,
    plan_from=plan_from,
    facts=exchange_facts,
    tasks=("permute", "unpermute"),
    normal=_normal,
)
