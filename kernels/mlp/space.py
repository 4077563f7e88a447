"""What a search may choose for this family: launch decisions of its Triton kernels."""

from __future__ import annotations

from ..space import Space
from ._block_space import BLOCK
from ._qkv_space import QKV
from ._row_spaces import QK_APPEND, RMSNORM, SWIGLU

SPACES: tuple[Space, ...] = (BLOCK, QKV, RMSNORM, SWIGLU, QK_APPEND)
