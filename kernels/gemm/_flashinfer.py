"""What the adapters of FlashInfer share."""

from __future__ import annotations


def version() -> str:
    """The package's version."""
    import flashinfer

    return str(flashinfer.__version__)
