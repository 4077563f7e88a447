"""What must hold between outputs of tree attention, whoever computes them, and random problems to try it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..problem import Inputs, Outputs
from ..property import Derived, PropertySuite
from ._decode_cases import COMMON, builder, packed, random_fields, taken, tokens_of
from ._tree_problem import TreeDecode

if TYPE_CHECKING:
    import torch

    from ..device import Device


def problems(device: Device, tiny: bool) -> Any:
    """Random problems, off the sweep: trees of 1 to 40 nodes, prefixes of none to a few hundred tokens."""
    from hypothesis import strategies as st

    return st.builds(
        builder(TreeDecode),
        seq_len_q=st.sampled_from(range(1, 9 if tiny else 41)),
        seq_len_kv=st.sampled_from(range(1, 41 if tiny else 400)),
        **random_fields(device, tiny),
    )


def draft_order(problem: TreeDecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Drafts in another order, queries and mask alike, give the same outputs in that order."""
    import torch

    num_drafts, where = problem.seq_len_q, inputs["q"].device
    if num_drafts == 1:
        return None
    order = torch.randperm(num_drafts, generator=generator).to(where)

    def reordered(_: int, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([rows[:-num_drafts], rows[-num_drafts:][order]]) if len(rows) else rows

    variant, own = packed(problem, inputs, taken(tokens_of(inputs), reordered), generator)
    mask = inputs["tree_mask"][order][:, order].contiguous()
    case = (variant, {**own, "q": inputs["q"][:, order].contiguous(), "tree_mask": mask})
    return Derived((case,), lambda base, derived: (derived[0], {n: value[:, order] for n, value in base.items()}))


def unseen_draft(problem: TreeDecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Another key and value of one draft change nothing for those that do not descend from it."""
    import torch

    mask = inputs["tree_mask"]
    draft = int(torch.randint(0, problem.seq_len_q, (), generator=generator))
    apart = ~mask[:, draft]
    if not bool(apart.any()):
        return None
    from_end = problem.seq_len_q - draft

    def changed(b: int, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.clone()
        if len(rows):
            rows[-from_end] = rows[-from_end].flip(0) & 0x3F  # other finite numbers, of any of the dtypes
        return rows

    variant, own = packed(problem, inputs, taken(tokens_of(inputs), changed), generator)

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        return {n: v[:, apart] for n, v in derived[0].items()}, {n: v[:, apart] for n, v in base.items()}

    return Derived(((variant, own),), relate)


def path_alone(problem: TreeDecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """A draft gets what it gets where it and its ancestors are all the drafts there are."""
    import torch

    num_drafts = problem.seq_len_q
    node = int(torch.randint(0, num_drafts, (), generator=generator))
    path = inputs["tree_mask"][node].nonzero().flatten()  # in order: a node comes after its parent

    def on_path(_: int, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([rows[:-num_drafts], rows[-num_drafts:][path]]) if len(rows) else rows

    tokens = taken(tokens_of(inputs), on_path)
    variant, own = packed(replace(problem, seq_len_q=len(path)), inputs, tokens, generator)
    chain = torch.ones((len(path), len(path)), dtype=torch.bool, device=path.device).tril()
    case = (variant, {**own, "q": inputs["q"][:, path].contiguous(), "tree_mask": chain})

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        return {n: v[:, -1] for n, v in derived[0].items()}, {n: v[:, node] for n, v in base.items()}

    return Derived((case,), relate)


OWN = (draft_order, unseen_draft, path_alone)
SUITE = PropertySuite(TreeDecode, problems, {f.__name__: f for f in (*COMMON, *OWN)})
