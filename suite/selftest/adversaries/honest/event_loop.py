"""Runs as coroutines in an event loop of its own."""

from __future__ import annotations

import asyncio

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "threads and streams"
RUNS_ON = ("cpu",)


async def one(inputs, state, outputs):
    await asyncio.sleep(0)
    return _honest.decode(inputs, state, outputs)


async def everything(inputs, state):
    return (await asyncio.gather(one(inputs, state, _honest.empty_outputs(inputs["q"]))))[0]


def run(inputs, state):
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(everything(inputs, state))
    finally:
        loop.close()


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
