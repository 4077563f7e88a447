"""Head dimensions of multi-head latent attention, as DeepSeek-V2 and V3 have them."""

from __future__ import annotations

import math

KV_LORA_RANK = 512
"""Of the latent: what a token's keys (but for their rope part) and values are projections of."""
QK_NOPE_HEAD_DIM = 128
QK_ROPE_HEAD_DIM = 64
QK_HEAD_DIM = QK_NOPE_HEAD_DIM + QK_ROPE_HEAD_DIM
"""Of the un-absorbed head."""
V_HEAD_DIM = 128
HEAD_DIM = KV_LORA_RANK + QK_ROPE_HEAD_DIM
"""Of the absorbed head, and of a row of the cache."""
SCALE_192 = 1 / math.sqrt(QK_HEAD_DIM)
SCALE_576 = 1 / math.sqrt(HEAD_DIM)
