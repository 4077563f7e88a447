"""What has no place in a kernel's source, as data: names, a code, a level and the reason.

A finding is evidence for whoever reads the report, never a verdict: what a kernel does is judged by running it, and
each name here has an honest use somewhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["note", "suspicious"]


@dataclass(frozen=True)
class Finding:
    """One place in the source that a reader should look at."""

    file: str
    """Relative to kernels/, or the file's name where it lies elsewhere."""
    line: int
    code: str
    level: Level
    sentence: str

    def to_json(self) -> dict[str, str | int]:
        """As run.json holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Rule:
    """Every import or use of a name below one of `names`; the longest matching name of all rules decides."""

    names: tuple[str, ...]
    code: str
    level: Level | None
    """None: allowed, though a shorter name is not."""
    why: str
    origins: tuple[str, ...] = ()
    """Origins that it holds for; none: all."""


OURS = ("hand", "generated", "unknown")
"""Origins whose kernels must not be a library's. A file whose origin cannot be read counts as ours."""

RULES = (
    Rule(("subprocess", "pty", "os.system", "os.popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.posix_spawnp",
          "os.spawnv", "os.spawnl", "os.execv", "os.execl", "os.execve", "os.execvp"),
         "other_process", "suspicious", "a kernel starts no process"),
    Rule(("socket", "http", "urllib", "requests", "ftplib", "ssl", "aiohttp", "httpx"),
         "network", "suspicious", "a kernel needs no network"),
    Rule(("threading", "_thread", "multiprocessing", "concurrent", "asyncio", "queue"),
         "other_thread", "suspicious", "work of another thread may lie outside the timed interval"),
    Rule(("ctypes", "cffi", "mmap", "_ctypes"),
         "raw_memory", "suspicious", "it reaches memory and functions that are not the kernel's own"),
    Rule(("gc", "inspect.stack", "inspect.currentframe", "sys._getframe", "sys._current_frames", "sys.settrace",
          "sys.setprofile", "sys.modules", "sys.meta_path", "sys.path", "sys.setswitchinterval", "tracemalloc",
          "builtins.globals", "builtins.vars", "builtins.__builtins__"),
         "looks_around", "suspicious", "it reads or changes the process that judges and times it"),
    Rule(("inspect", "traceback", "dis"), "looks_around", "note", "a kernel seldom needs to see Python's own objects"),
    Rule(("importlib", "imp", "runpy", "pkgutil", "builtins.__import__"),
         "dynamic_import", "suspicious", "what it imports cannot be read from its source"),
    Rule(("importlib.metadata", "importlib.resources"), "dynamic_import", None, "versions and data files"),
    Rule(("builtins.eval", "builtins.exec", "builtins.compile"),
         "dynamic_code", "suspicious", "what it executes cannot be read from its source"),
    Rule(("base64", "codecs", "marshal", "zlib", "lzma", "bz2"),
         "encoded_data", "note", "what it decodes cannot be read from its source"),
    Rule(("pickle", "cPickle", "dill", "cloudpickle", "shelve", "sqlite3", "torch.save", "torch.load", "numpy.save",
          "numpy.load", "builtins.open", "io.open", "os.open", "tempfile", "shutil"),
         "files", "suspicious", "a kernel keeps nothing in files and reads no answer from them"),
    Rule(("time", "timeit", "datetime", "torch.cuda.Event", "torch.utils.benchmark"),
         "clock", "suspicious", "a kernel need not know the time, and what does can tell a timed call from a check"),
    Rule(("atexit", "signal", "faulthandler", "weakref.finalize", "os._exit", "os.kill", "os.abort", "sys.exit"),
         "process_control", "suspicious", "it acts on its process, or when nobody looks any more"),
    Rule(("weakref",), "module_state", "note", "it follows objects from call to call"),
    Rule(("random", "secrets", "torch.manual_seed", "torch.seed", "torch.initial_seed", "torch.get_rng_state",
          "torch.set_rng_state", "torch.default_generator", "torch.Generator", "torch.random", "torch.cuda.manual_seed",
          "torch.cuda.manual_seed_all", "torch.cuda.get_rng_state", "torch.cuda.set_rng_state",
          "torch.cuda.initial_seed", "torch.cuda.default_generators", "numpy.random"),
         "random_state", "suspicious", "with the generator's state it could draw the inputs itself, or disturb them"),
    Rule(("os.environ", "os.getenv"), "environment", "note", "it behaves by what the environment says"),
    Rule(("os.putenv", "os.unsetenv"), "environment", "suspicious", "it changes what every kernel here depends on"),
    Rule(("torch.set_num_threads", "torch.set_num_interop_threads", "torch.set_default_dtype",
          "torch.set_default_device", "torch.set_float32_matmul_precision", "torch.use_deterministic_algorithms",
          "torch.set_grad_enabled", "torch.set_printoptions", "torch.set_warn_always",
          "torch.backends.cuda.enable_flash_sdp", "torch.backends.cuda.enable_math_sdp",
          "torch.backends.cuda.enable_mem_efficient_sdp", "torch.backends.cuda.enable_cudnn_sdp",
          "torch.cuda.set_device", "torch.cuda.set_per_process_memory_fraction", "torch.cuda.memory.change_current"),
         "global_setting", "suspicious", "it changes a setting that its rivals run under as well"),
    Rule(("torch.cuda.empty_cache", "torch.cuda.memory", "torch.cuda.MemPool", "torch.cuda.caching_allocator_alloc"),
         "allocator", "note", "the allocator's pool is also what poisons unwritten outputs"),
    Rule(("torch.cuda.CUDAGraph", "torch.cuda.graph", "torch.cuda.make_graphed_callables"),
         "captured_graph", "note", "a replayed graph reads the addresses that it was captured with"),
    Rule(("torch.cuda.synchronize",), "synchronises", "note", "it holds up the host within a call"),
    Rule(("torch.equal", "torch.allclose", "torch.testing", "torch.isclose"),
         "compares_tensors", "suspicious", "comparing inputs with earlier ones is how answers are remembered"),
    Rule(("torch.utils._python_dispatch", "torch.overrides", "torch.utils._pytree", "torch.library", "torch.fx",
          "unittest.mock"),
         "intercepts", "suspicious", "it can stand between the judge and what the judge calls"),
    Rule(("torch.utils.cpp_extension",), "unread_source", "note", "it compiles source that this pass does not read"),
    Rule(("suite", "pytest", "_pytest", "pytest_benchmark"),
         "knows_the_judge", "suspicious", "a kernel must not know what judges it"),
    Rule(("flash_attn", "flash_attn_interface", "flash_mla", "flashinfer", "vllm", "sglang", "sgl_kernel", "aiter",
          "xformers", "deep_gemm", "sageattention", "transformer_engine", "tensorrt", "tensorrt_llm", "onnxruntime",
          "fla", "liger_kernel", "torchao", "bitsandbytes"),
         "library_call", "suspicious", "a kernel that calls a library is a vendor's: its time is the library's", OURS),
    Rule(("torch.nn.functional.scaled_dot_product_attention", "torch.nn.attention", "torch.ops",
          "torch.nn.MultiheadAttention", "torch.nn.functional.multi_head_attention_forward",
          "torch.nn.functional.grouped_mm", "torch._grouped_mm"),
         "library_call", "suspicious", "a kernel that calls a library is a vendor's: its time is the library's", OURS),
    Rule(("torch.matmul", "torch.mm", "torch.bmm", "torch.addmm", "torch.addbmm", "torch.baddbmm", "torch.einsum",
          "torch.tensordot", "torch.mv", "torch.dot", "torch.inner", "torch.chain_matmul", "torch.linalg",
          "torch._scaled_mm", "torch._int_mm", "torch.nn.functional.linear", "torch.nn.functional.bilinear",
          "torch.nn.Linear"),
         "library_product", "suspicious", "the product is cuBLAS's, hipBLAS's or oneDNN's", ("hand", "unknown")),
    Rule(("torch.matmul", "torch.mm", "torch.bmm", "torch.addmm", "torch.baddbmm", "torch.einsum", "torch._scaled_mm",
          "torch.nn.functional.linear"),
         "library_product", "note", "unless a compiler lowers it, the product is a library's; a generator may want "
         "just that", ("generated",)),
)  # fmt: skip

PRODUCT_METHODS = frozenset({"matmul", "mm", "bmm", "addmm", "addmm_", "baddbmm", "addbmm", "mv", "__matmul__"})
"""Methods of a tensor that are a library's product."""
STREAMS = ("torch.cuda.Stream", "torch.cuda.stream", "torch.cuda.ExternalStream", "torch.cuda.set_stream")
WAITS = frozenset({"wait_stream", "wait_event", "synchronize"})
IDENTITIES = frozenset({"data_ptr", "untyped_storage", "tobytes", "_version", "__hash__", "_cdata"})
"""Attributes that tell one tensor, or one content, from another."""
REDUCTIONS = frozenset({"sum", "mean", "norm", "std", "var", "prod"})
HOST_READS = frozenset({"item", "tolist", "int", "float", "bool"})


def find_rule(name: str, origin: str) -> Rule | None:
    """The rule with the longest name that `name` is or lies below; None where none holds or it is allowed."""
    best, length = None, -1
    for rule in RULES:
        if rule.origins and origin not in rule.origins:
            continue
        for known in rule.names:
            if len(known) > length and (name == known or name.startswith(known + ".")):
                best, length = rule, len(known)
    return best if best and best.level else None
