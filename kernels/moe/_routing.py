"""Which token goes to which expert: drawn so that every launch has the same work, and that no kernel meets a tie.

Routing itself is drawn from a seed that never changes: a redraw gives tokens other rows of it, and experts other
numbers. So there are always as many experts with as many tokens, and nobody knows which. Scores that a router has to
rank lie on a lattice, so that rounding decides no order.
"""

from __future__ import annotations

import functools

import torch

ROUTINGS = ("uniform", "balanced", "skewed", "empties")
LATTICE = 512
"""Points of one token's scores where experts are not grouped: multiples of 1/64 in [-4, 4) are exact in bfloat16."""
CACHED_ROUTINGS = 8
DEEPSEEK_GROUPS = 8


@functools.lru_cache(maxsize=CACHED_ROUTINGS)
def base_ids(tokens: int, num_experts: int, top_k: int, routing: str, device: str) -> torch.Tensor:
    """[tokens, top_k] int32 on `device`: experts of every token, none twice in a row; always the same.

    `uniform`: each token draws its experts at random. `balanced`: every expert gets as many tokens as the others, or
    one more. `skewed`: the chance of the n-th most popular expert falls as 1 / (n + 1). `empties`: uniform, but every
    fourth expert gets no token (as long as top_k others remain).
    """
    if routing == "balanced":
        slots = torch.arange(tokens * top_k).view(tokens, top_k)
        return (slots % num_experts).int().to(device)
    generator = torch.Generator().manual_seed(0)
    popularity = torch.zeros(num_experts)
    if routing == "skewed":
        rank = torch.randperm(num_experts, generator=generator)
        popularity = -torch.log(rank + 2.0)
    if routing == "empties" and num_experts - (num_experts + 3) // 4 >= top_k:
        popularity[::4] = float("-inf")
    ids = torch.empty((tokens, top_k), dtype=torch.int32)
    for part in ids.split(1 << 14):  # the largest of log weight + Gumbel noise: drawn by weight, without repetition
        noise = torch.empty((len(part), num_experts)).exponential_(generator=generator).log().neg()
        part.copy_((popularity + noise).topk(top_k).indices)
    return ids.to(device)


def redrawn_ids(
    tokens: int, num_experts: int, top_k: int, routing: str, generator: torch.Generator, local_experts: int = 0
) -> torch.Tensor:
    """[tokens, top_k] int32 on the generator's device: rows of `base_ids` in another order, experts under other
    numbers.

    Of a shard the first `local_experts` keep the first numbers: it has as many tokens as before.
    """
    ids = base_ids(tokens, num_experts, top_k, routing, str(generator.device))
    here = local_experts or num_experts
    numbers = torch.cat([_order(here, generator), here + _order(num_experts - here, generator)]).int()
    return numbers[ids[_order(tokens, generator)].long()]


def redrawn_ends(tokens: int, num_experts: int, top_k: int, routing: str, generator: torch.Generator) -> torch.Tensor:
    """[num_experts] int32: where the rows of every expert end; as `redrawn_ids` has it, experts under other numbers."""
    counts = _base_counts(tokens, num_experts, top_k, routing, str(generator.device))
    return counts[_order(num_experts, generator)].cumsum(0).int()


@functools.lru_cache(maxsize=CACHED_ROUTINGS)  # to count them, the host waits for a device
def _base_counts(tokens: int, num_experts: int, top_k: int, routing: str, device: str) -> torch.Tensor:
    return base_ids(tokens, num_experts, top_k, routing, device).flatten().bincount(minlength=num_experts)


def redrawn_logits(tokens: int, num_experts: int, router: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """`draw_router` of a seed that never changes, its rows in another order, experts under other numbers: groups, and
    the members of each."""
    drawn = _base_logits(tokens, num_experts, router, str(generator.device))
    groups = DEEPSEEK_GROUPS if router == "deepseek" else 1
    members = torch.rand((groups, num_experts // groups), device=generator.device, generator=generator).argsort(-1)
    numbers = (_order(groups, generator)[:, None] * members.shape[1] + members).flatten()
    moved = {name: value[..., numbers] for name, value in drawn.items()}
    return moved | {"router_logits": moved["router_logits"][_order(tokens, generator)]}


@functools.lru_cache(maxsize=CACHED_ROUTINGS)
def _base_logits(tokens: int, num_experts: int, router: str, device: str) -> dict[str, torch.Tensor]:
    groups, scoring = (DEEPSEEK_GROUPS, "sigmoid") if router == "deepseek" else (1, "softmax")
    drawn = draw_router(tokens, num_experts, groups, scoring, 1.0, torch.Generator().manual_seed(0))
    return {name: value.to(device) for name, value in drawn.items()}


def _order(tokens: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(tokens, generator=generator, device=generator.device)


def draw_router(
    tokens: int, num_experts: int, num_groups: int, scoring: str, scale: float, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """{router_logits [tokens, num_experts] float32, and for sigmoid scores correction_bias [num_experts] float32}.

    No two of a token's scores that choose are nearly equal, nor two sums of a group's best two. Logits of a softmax
    fill [-4 scale, 4 scale); scores of a sigmoid with their bias fill (0.15, 0.85).
    """
    lattice, size = _draw_lattice(tokens, num_experts, num_groups, generator)
    if scoring == "softmax":
        return {"router_logits": ((lattice * (8 / size) - 4) * scale).float()}
    bias = (torch.rand(num_experts, device=generator.device, generator=generator) - 0.5) / 5
    scores = 0.15 + 0.7 * (lattice + 0.5) / size - bias.double()
    return {"router_logits": torch.logit(scores).float(), "correction_bias": bias}


def _draw_lattice(
    tokens: int, num_experts: int, num_groups: int, generator: torch.Generator
) -> tuple[torch.Tensor, int]:
    """([tokens, num_experts] float64 of distinct whole numbers, a bound that they stay below).

    Where experts are grouped, a number is 2 G a + r with the group's own r < G: sums of two from different groups
    then differ by 2 at least.
    """

    def shuffled(*shape: int) -> torch.Tensor:
        return torch.rand(shape, device=generator.device, generator=generator).argsort(-1)

    if num_groups == 1:
        size = max(LATTICE, num_experts)
        return shuffled(tokens, size)[:, :num_experts].double(), size
    members = num_experts // num_groups
    steps = shuffled(tokens, num_groups, 2 * members)[:, :, :members]
    lattice = 2 * num_groups * steps + shuffled(tokens, num_groups)[:, :, None]
    return lattice.flatten(1).double(), 4 * num_experts


def draw_weights(tokens: int, top_k: int, generator: torch.Generator) -> torch.Tensor:
    """[tokens, top_k] float32: what the experts of a token weigh, 1 in all."""
    logits = torch.empty((tokens, top_k), device=generator.device).normal_(generator=generator)
    return logits.softmax(-1)


def place_rows(ids: torch.Tensor) -> torch.Tensor:
    """[tokens, top_k] int32: the row of every (token, choice) once all are sorted by expert, in order of tokens."""
    return ids.flatten().argsort(stable=True).argsort().view(ids.shape).int()


def fill_normal(tensor: torch.Tensor, scale: float, generator: torch.Generator) -> torch.Tensor:
    """N(0, scale) in place, in slices: 8-bit floats are drawn in bfloat16 and need no such copy of the whole."""
    for part in tensor.view(-1).split(1 << 26):
        drawn = part if part.dtype.itemsize > 1 else torch.empty_like(part, dtype=torch.bfloat16)
        drawn.normal_(0, scale, generator=generator)
        if drawn is not part:
            part.copy_(drawn)
    return tensor
