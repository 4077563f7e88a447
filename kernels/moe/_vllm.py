"""What the adapters of vLLM's kernels share."""

from __future__ import annotations


def version() -> str:
    """The package's version."""
    import vllm

    return f"vllm {vllm.__version__}"
