"""What all kernels of a process stand on: each change is named, and what libraries do by themselves is none."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import json
import mmap
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ATTENTION = importlib.import_module("torch.nn.attention")

from suite.measure.footing import footing, patched_code  # noqa: E402 - after the skip
from suite.measure.surface import DEFINITION, METHOD, READS_POINTERS  # noqa: E402
from suite.measure.tampering import Tampered  # noqa: E402

LIBRARIES: list[Any] = []


def registered() -> None:
    """Past the list that torch.library keeps."""
    LIBRARIES.append(torch._C._dispatch_library("IMPL", "aten", "CPU", __file__, 1))
    LIBRARIES[-1].impl("hardshrink", "CPU", lambda x, lambd=0.5: x)


CHANGES: dict[str, tuple[Any, str, Any]] = {
    "torch.nn.attention.sdpa_kernel was replaced": (ATTENTION, "sdpa_kernel", print),
    "contextlib._GeneratorContextManager.__enter__ was": (contextlib._GeneratorContextManager, "__enter__", print),
    "json._default_encoder.encode was": (json._default_encoder, "encode", print),  # type: ignore[attr-defined]
    "os.environ.decodevalue was": (os.environ, "decodevalue", str),
    "functools.wraps was replaced": (functools.wraps, "__code__", (lambda: None).__code__),
}


@pytest.mark.parametrize("words", CHANGES)
def test_what_was_replaced_is_named(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, value = CHANGES[words]
    stand = footing()
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, value)
        with pytest.raises(Tampered, match=words):
            stand.refuse_changes("here")
    stand.refuse_changes("here")


def test_another_module_in_the_place_of_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = footing()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "torch.nn.attention", ModuleType("torch.nn.attention"))
        with pytest.raises(Tampered, match=r"torch\.nn.attention was replaced"):
            stand.refuse_changes("here")


@pytest.mark.skipif(not READS_POINTERS, reason="another layout of a C function's memory")
def test_a_c_function_that_leads_elsewhere_is_seen() -> None:
    stand = footing()
    definition = ctypes.c_size_t.from_address(id(time.process_time_ns) + DEFINITION).value
    method = ctypes.c_size_t.from_address(definition + METHOD)
    own, method.value = method.value, method.value + 1
    try:
        with pytest.raises(Tampered, match=r"time\.process_time_ns was replaced"):
            stand.refuse_changes("here")
    finally:
        method.value = own


def test_an_operator_that_another_function_computes_is_seen() -> None:
    stand = footing()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            registered()
        with pytest.raises(Tampered, match="aten::hardshrink is computed by another function"):
            stand.refuse_changes("here")
    finally:
        LIBRARIES.clear()


@pytest.mark.skipif(sys.platform != "linux", reason="it reads Linux's list of mappings")
def test_a_page_of_code_that_was_written_to_is_seen_even_when_it_is_put_back(tmp_path: Path) -> None:
    file = tmp_path / "code"
    file.write_bytes(bytes(mmap.PAGESIZE))
    with file.open("r+b") as opened:
        code = mmap.mmap(opened.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    place = ctypes.addressof(ctypes.c_char.from_buffer(code))
    protect: Callable[..., int] = ctypes.CDLL(None).mprotect
    protect(ctypes.c_void_p(place), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC)
    assert code[:1] == b"\0"
    assert str(file) not in patched_code()
    protect(ctypes.c_void_p(place), ctypes.c_size_t(mmap.PAGESIZE), 7)
    assert str(file) in patched_code()
    ctypes.memset(place, 0, 1)
    protect(ctypes.c_void_p(place), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC)
    assert str(file) in patched_code()


def test_what_libraries_do_by_themselves_is_no_change() -> None:
    import asyncio

    stand = footing()

    async def nothing() -> None: ...

    asyncio.run(nothing())
    torch.vmap(torch.sin)(torch.ones(3))
    torch.einsum("ij,jk->ik", torch.ones(2, 2), torch.ones(2, 2))
    stand.refuse_changes("here")
