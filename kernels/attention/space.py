"""What a search may choose for attention: all launch decisions of its hand-written templates."""

from __future__ import annotations

from ..space import Space
from ._decode_split_kv_space import DECODE
from ._prefill_hopper_space import PREFILL_HOPPER
from ._prefill_space import PREFILL

SPACES: tuple[Space, ...] = (DECODE, PREFILL_HOPPER, PREFILL)
