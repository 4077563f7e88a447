"""In the worker: whose doing an exception is, where that is known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

ATTRIBUTE = "kernelgate_kernel"


def blamed(kernel_id: str, error: Exception) -> Exception:
    """The error, with the kernel that made it."""
    setattr(error, ATTRIBUTE, kernel_id)
    return error


def culprit(error: BaseException) -> dict[str, Any]:
    """{"kernel": id} where it is known, for a reply."""
    kernel_id = getattr(error, ATTRIBUTE, None)
    return {"kernel": kernel_id} if kernel_id else {}


@contextlib.contextmanager
def blaming(kernel_id: str) -> Iterator[None]:
    """What the block raises is this kernel's doing."""
    try:
        yield
    except Exception as error:
        blamed(kernel_id, error)
        raise
