"""What a search may choose for mixtures of experts: the launches of router, experts and exchange."""

from __future__ import annotations

from collections.abc import Mapping

from ..device import Device
from ..space import Space, Value, Work
from ._exchange_space import EXCHANGE
from ._experts_space import SPACE as EXPERTS
from ._router_plan import RouterChoice, plan_from, router_choice_for, router_facts
from .problem import MoERouter

MOST_SCORES = 64
"""Most scores of a thread: they and what chooses by them, and both once more while one is taken out."""

ROUTER = """A router in Triton: scores in registers from the logits to the chosen experts.

A program owns some tokens. Experts lie in [groups, members of a group], both filled up to powers of two with scores of
-inf. Groups and then experts are chosen one after the other, each time the largest that is left.
"""


def _router_values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    return {"block_t": (1, 2, 4, 8, 16), "num_warps": (1, 2, 4, 8), "late_scores": (False, True)}


def _why_no_router(problem: MoERouter, choice: RouterChoice, device: Device) -> str | None:
    scores = choice.block_t * problem.num_experts / (choice.num_warps * device.warp_size)
    if scores > MOST_SCORES:
        return f"{scores:.0f} scores in each thread's registers"
    if choice.num_warps > 1 and scores < 1:
        return "there are more threads than scores"
    if choice.block_t > 1 and choice.block_t >= 2 * problem.tokens:
        return f"half of the {choice.block_t} tokens of a program would be empty: there are {problem.tokens}"
    return None


def _router_work(problem: MoERouter, choice: RouterChoice, device: Device) -> Work:
    """A step along all experts for each of the chosen, twice where scores are sought as well."""
    return Work(flops_factor=1.0 + problem.top_k * (1 if choice.late_scores else 2) / 4)


SPACES = (
    Space(
        template="triton_router",
        what="router",
        about=ROUTER,
        choice=RouterChoice,
        values=_router_values,
        why_not=_why_no_router,
        choice_for=router_choice_for,
        plan_from=plan_from,
        facts=router_facts,
        work=_router_work,
        tasks=("router",),
    ),
    EXPERTS,
    EXCHANGE,
)
