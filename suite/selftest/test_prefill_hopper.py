"""The Gluon kernel of prefill as Python reads it: its partitions are threads, its products as late as may be.

No interpreter runs Gluon. Barriers, phases, buffers and masks are those of the source; layouts and fences are not seen.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from kernels import prefill_hopper as hopper
from kernels import prefill_items
from kernels.attention import prefill_gluon_hopper
from kernels.attention._prefill_problem import AttentionPrefill
from kernels.device import Device
from kernels.mla import prefill_gluon_hopper as mla_gluon_hopper
from kernels.mla._prefill_problem import MLAPrefill
from kernels.problem import Outputs, Problem
from suite.judge.check import compare, expected_outputs

H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
PATIENCE_S = 5.0
PROBLEMS = (
    AttentionPrefill(1, 300, 300, 2, 1, return_lse=True),
    AttentionPrefill(3, 200, 260, 2, 2, lengths="uniform", return_lse=True, head_dim=64),
    AttentionPrefill(7, 70, 140, 2, 1, lengths="empties", return_lse=True, head_dim=64),
    AttentionPrefill(1, 140, 640, 1, 1, window=200, head_dim=64),
    AttentionPrefill(2, 400, 9, 1, 1, window=5, lengths="400x9+7x530", return_lse=True, head_dim=64),
    AttentionPrefill(2, 130, 256, 2, 2, causal=False, dtype="float16", head_dim=64),
    AttentionPrefill(1, 130, 200, 1, 1, return_lse=True, head_dim=256),
    MLAPrefill(2, 200, 330, 2, lengths="uniform"),
)


class Tensor(torch.Tensor):
    """In registers."""

    type = property(lambda self: SimpleNamespace(layout=None))


@dataclass(frozen=True)
class Pointer:
    """To elements of a flat tensor."""

    flat: Any
    at: Any = 0

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.flat, self.at + offset)

    def __getitem__(self, index: Any) -> Pointer:
        return Pointer(self.flat, self.at[index])

    @property
    def dtype(self) -> Any:
        return SimpleNamespace(element_ty=self.flat.dtype)


@dataclass
class Barrier:
    """One mbarrier."""

    count: int = 0
    pending: int = 0
    expected_bytes: int = 0
    phase: int = 0
    changed: Any = field(default_factory=threading.Condition)

    def update(self, arrivals: int, more_bytes: int) -> None:
        with self.changed:
            self.pending -= arrivals
            self.expected_bytes += more_bytes
            assert self.pending >= 0, "more have arrived than the barrier counts"
            if self.pending == 0 and self.expected_bytes == 0:
                self.phase, self.pending = self.phase + 1, self.count
                self.changed.notify_all()

    def wait(self, parity: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.phase & 1 != parity, PATIENCE_S), "deadlock"


@dataclass(frozen=True)
class Shared:
    """Buffers or barriers in shared memory."""

    value: Any

    def index(self, i: int) -> Any:
        own = self.value[i]
        return own if isinstance(own, Barrier) else Shared(own)

    def permute(self, order: tuple[int, ...]) -> Shared:
        return Shared(self.value.permute(order))


@dataclass
class Product:
    """A product that is computed as late as it may be: what it reads must stay until it is waited for."""

    operands: tuple[Any, ...]
    value: Any = None

    def finish(self) -> None:
        a, b, acc = (x.value if isinstance(x, (Shared, Product)) else x for x in self.operands)
        self.value = (a.float() @ b.float() + (0 if acc is None else acc)).as_subclass(Tensor)


FLIGHT = threading.local()


def warpgroup_mma(a: Any, b: Any, acc: Any, use_acc: bool = True, is_async: bool = False) -> Any:
    product = Product((a, b, acc if use_acc else None))
    FLIGHT.products = [*getattr(FLIGHT, "products", []), product]
    return product if is_async else warpgroup_mma_wait(0, [product])


def warpgroup_mma_wait(left: int, deps: list[Any]) -> Any:
    while len(FLIGHT.products) > left:
        FLIGHT.products.pop(0).finish()
    values = tuple(dep.value if isinstance(dep, Product) else dep for dep in deps)
    assert all(value is not None for value in values), "used before it was waited for"
    return values if len(values) > 1 else values[0]


@dataclass(frozen=True)
class Descriptor:
    """Tiles of a matrix."""

    matrix: Any
    layout: None = None

    @property
    def dtype(self) -> Any:
        return self.matrix.dtype


def tma_load(source: Descriptor, at: list[int], barrier: Barrier, target: Shared) -> None:
    """A copy that another thread completes; Q comes later than what is asked for behind it."""
    rows, columns = target.value.shape
    assert at[0] >= 0
    tile = source.matrix[at[0] : at[0] + rows, at[1] : at[1] + columns]
    assert tile.shape[1] == columns

    def complete() -> None:
        target.value.zero_()[: len(tile)] = tile
        barrier.update(0, -rows * columns * 2)

    threading.Timer(0.003 if rows == hopper.ROWS else 0.0, complete).start()


def allocate(dtype: Any, shape: list[int], layout: Any) -> Any:
    if layout == "mbarrier":
        barriers = [Barrier() for _ in range(shape[0])]
        return Shared(barriers) if len(shape) > 1 else barriers[0]
    return Shared(torch.full(shape, float("nan"), dtype=dtype))


def init(barrier: Barrier, count: int) -> None:
    barrier.count = barrier.pending = count


def specialize(partitions: list[Any], num_warps: list[int], registers: list[int]) -> None:
    errors: list[BaseException] = []

    def run(function: Any, arguments: Any) -> None:
        try:
            function(*arguments)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=partition) for partition in partitions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def load(pointer: Pointer) -> Any:
    return int(pointer.flat[pointer.at])


def store(pointer: Pointer, values: Any, mask: Any) -> None:
    chosen = mask.expand(values.shape)
    pointer.flat[pointer.at[chosen]] = values[chosen]


def full(shape: list[int], value: float, dtype: Any, layout: Any) -> Any:
    return torch.full(shape, value, dtype=dtype).as_subclass(Tensor)


def where(condition: Any, yes: Any, no: Any) -> Any:
    return torch.where(condition, yes, no) if isinstance(condition, torch.Tensor) else (yes if condition else no)


def extreme(on_tensors: Any, on_numbers: Any) -> Any:
    def of_two(a: Any, b: Any) -> Any:
        if not isinstance(a, torch.Tensor):
            return on_numbers(a, b)
        return on_tensors(a, b if isinstance(b, torch.Tensor) else torch.tensor(b, dtype=a.dtype))

    return of_two


GRID = SimpleNamespace(program=0, programs=1)
GL = SimpleNamespace(
    program_id=lambda axis: GRID.program, num_programs=lambda axis: GRID.programs, cdiv=lambda a, b: -(-a // b),
    static_range=range, warp_specialize=specialize, allocate_shared_memory=allocate, load=load, store=store,
    where=where, full=full, zeros=lambda shape, dtype, layout: full(shape, 0.0, dtype, layout),
    arange=lambda start, end, layout: torch.arange(start, end).as_subclass(Tensor),
    minimum=extreme(torch.minimum, min), maximum=extreme(torch.maximum, max),
    max=lambda x, axis: x.amax(axis), sum=lambda x, axis: x.sum(axis), exp2=torch.exp2, log2=torch.log2,
    convert_layout=lambda x, layout: x, SliceLayout=lambda *_: None, DotOperandLayout=lambda *_: None,
    NVMMADistributedLayout=lambda *_: None, float32=torch.float32, int64=torch.int64,
)  # fmt: skip
MBARRIER = SimpleNamespace(
    MBarrierLayout=lambda: "mbarrier", init=init, wait=lambda barrier, parity: barrier.wait(parity),
    arrive=lambda barrier, count: barrier.update(count, 0), expect=lambda barrier, size: barrier.update(1, size),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _plain_python(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in vars(hopper).copy().items():
        if hasattr(value, "fn"):
            monkeypatch.setattr(hopper, name, value.fn)
    fakes = {"gl": GL, "mbarrier": MBARRIER, "tma_load": tma_load, "warpgroup_mma": warpgroup_mma,
             "warpgroup_mma_wait": warpgroup_mma_wait, "barrier": lambda: None, "LN_2": hopper.LN_2.value,
             "ROWS": hopper.ROWS.value, "ITEM_FIELDS": hopper.ITEM_FIELDS.value}  # fmt: skip
    for name, value in fakes.items():
        monkeypatch.setattr(hopper, name, value)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def launch(inputs: Any, plan: prefill_items.HopperPlan) -> Outputs:
    q, v = inputs["q"], inputs["v"]
    out = torch.full((*q.shape[:2], v.shape[2]), float("nan"), dtype=q.dtype)
    lse = torch.full(q.shape[:2], float("nan"))
    matrices = [Descriptor(inputs[name].flatten(1)) for name in ("q", "k", "v", "q", "k")]
    GRID.programs = plan.items.shape[1]
    for GRID.program in range(plan.items.shape[1]):
        hopper.prefill_hopper(
            *matrices, Pointer(plan.items.flatten()), len(plan.items), Pointer(out.view(-1)), Pointer(lse.view(-1)),
            plan.softmax_scale * prefill_items.LOG2_E, plan.num_heads, plan.num_kv_heads, plan.block_n,
            v.shape[2], plan.rope, plan.stages, plan.causal, plan.window, plan.return_lse,
            plan.late_rounding,
        )  # fmt: skip
    return {"out": out, "lse": lse} if plan.return_lse else {"out": out}


@pytest.mark.parametrize(("programs", "stages"), [(1, 2), (3, 3)])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.id)
def test_partitions_meet_and_give_the_reference(problem: Problem, programs: int, stages: int) -> None:
    kernel = mla_gluon_hopper if isinstance(problem, MLAPrefill) else prefill_gluon_hopper
    inputs = problem.make_inputs(5, "cpu")
    tables = {name: inputs[name] for name in problem.plan_inputs}
    plan = kernel.plan(problem, tables, replace(H200, num_sms=programs))
    actual = launch(inputs, replace(plan, stages=stages, late_rounding=stages == 3))
    expected = expected_outputs(problem, inputs)
    for name, tolerance in problem.tolerances().items():
        _, fault = compare(actual[name].float(), expected[name], tolerance)
        assert fault is None, f"{name}: {fault}"


@pytest.mark.parametrize("lengths", [(1, 1), (300, 300), (5, 800), (800, 5), (130, 257), (640, 0)])
@pytest.mark.parametrize("tile", [64, 128])
@pytest.mark.parametrize(("causal", "window"), [(True, 0), (False, 0), (True, 1), (True, 200), (True, 900)])
def test_items_name_every_tile_that_is_seen_once(
    lengths: tuple[int, int], tile: int, causal: bool, window: int
) -> None:
    num_queries, num_keys = lengths
    for block in range(-(-num_queries // prefill_items.BLOCK_M)):
        item = prefill_items.item((7, 9), lengths, block, causal, window, tile)
        assert (item.first_q, item.num_queries) == (7 + 128 * block, num_queries - 128 * block)
        assert (item.first_kv, item.num_keys, item.position) == (9, num_keys, num_keys - num_queries + 128 * block)
        seen = torch.arange(num_keys) <= torch.arange(item.position, item.position + 128)[:, None]
        if window:
            seen &= torch.arange(num_keys) > torch.arange(item.position, item.position + 128)[:, None] - window
        seen = seen if causal else torch.ones_like(seen)
        touched = sorted({int(key) // tile for key in seen.any(0).nonzero()})
        assert item.num_tiles == len(touched)
        assert (item.right > 0) == bool(touched)
        for number in touched[item.left : item.left + item.whole]:
            assert bool(seen[:, number * tile : (number + 1) * tile].all())
            assert (number + 1) * tile <= num_keys


@pytest.mark.parametrize("kv_heads_at_once", [1, 2, 3])
def test_the_table_holds_every_item_once_and_shares_them_out_evenly(kv_heads_at_once: int) -> None:
    sequences = [(700, 1500), (0, 3), (130, 130), (1, 40)]
    rows = prefill_items.table(sequences, 6, 3, True, 0, 5, kv_heads_at_once)
    items = [prefill_items.Item(*row) for row in rows.flatten(0, 1).tolist()]
    found = sorted((item.head, item.first_q, item.num_queries) for item in items if item.num_queries)
    firsts = [(i * 128, 700 - i * 128) for i in range(6)] + [(700, 130), (828, 2), (830, 1)]
    assert found == [(head, *first) for head in range(6) for first in firsts]
    work = [sum(prefill_items.Item(*row).num_tiles for row in own.tolist()) for own in rows.transpose(0, 1)]
    assert max(work) - min(work) <= 12
    assert prefill_items.heads_at_once(8192, 8, 512) == 4
    assert prefill_items.heads_at_once(0, 8, 512) == 8


def test_other_architectures_are_refused() -> None:
    assert "sm_90" in (prefill_gluon_hopper.KERNEL.supports(PROBLEMS[0], replace(H200, arch="sm_100")) or "")
    assert prefill_gluon_hopper.KERNEL.supports(PROBLEMS[0], H200) is None
    wide = replace(PROBLEMS[0], head_dim=96)
    assert "these have 96" in (prefill_gluon_hopper.KERNEL.supports(wide, H200) or "")
