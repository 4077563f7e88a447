"""What a search may choose for this family: launch decisions of its Triton kernels."""

from __future__ import annotations

from ..space import Space
from ._block_space import BLOCK

SPACES: tuple[Space, ...] = (BLOCK,)
