"""Every fault that a kernel can have, as a toy kernel, and what must be said of it. Shared by tests and `selftest
--faults`."""

from __future__ import annotations

from dataclasses import dataclass

from suite.selftest.toy_project import faulty, kernel

RIGHT = 'return {"out": inputs["x"] @ inputs["w"]}'
TIMED = "calls = [0]"
"""Checks call a kernel once in a process, launches many times."""
IF_TIMED = "calls[0] += 1\nif calls[0] > 9:\n    "
EVERYWHERE = ("cpu", "cuda")
ON_CPU = ("cpu",)
"""A launch on a GPU replays captured graphs: it does not call `run` again, so nothing comes late."""
ON_GPU = ("cuda",)
"""Written for CUDA. Never run on an AMD GPU."""

_LIMITS = """
from suite.device.cpu import find_cpu
from suite.measure import fence

campaign.CASE_TIMEOUT_S = {timeout_s}
fence.MEMORY_FRACTION = ({memory_gib} << 30) / find_cpu().memory_bytes
fence.PROCESSES, fence.PROCESSES_PER_CORE = 24, 0
fence.THREADS = 1000
fence.PRINTED_BYTES = 1 << 20
"""


def limits(kind: str) -> str:
    """For conftest.py: what a toy kernel may take, so that a fault costs the machine little.

    Beside a GPU a process holds gigabytes of libraries, and takes seconds to begin.
    """
    timeout_s, memory_gib = (8.0, 2) if kind == "cpu" else (20.0, 12)
    return _LIMITS.format(timeout_s=timeout_s, memory_gib=memory_gib)


@dataclass(frozen=True)
class Fault:
    """One kernel, and the verdict that it must get."""

    what: str
    """For people."""
    source: str
    status: str
    reason: str
    words: str
    """That its sentence must hold."""
    on: tuple[str, ...] = EVERYWHERE


def _gpu(body: str, before: str = "") -> str:
    return faulty(body, before=f"import triton\nimport triton.language as tl\n{before}")


ILLEGAL = """
@triton.jit
def poke(out, offset):
    tl.store(out + offset, 1.0)
"""
MISALIGNED = """
@triton.jit
def poke(out):
    tl.store((out.to(tl.pointer_type(tl.int8)) + 1).to(tl.pointer_type(tl.float32)), 1.0)
"""
SPAWN = (
    "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\n    os._exit(0)\nos.wait()\n"
)

FAULTS: dict[str, Fault] = {
    "raises": Fault("exception", faulty('raise ValueError("no such tile")'), "failed", "raised",
                    "ValueError: no such tile"),
    "says_much": Fault("exception with control characters", faulty(r'raise ValueError("\x1b[2J\n::error::\u202e")'),
                       "failed", "raised", "It raised ValueError:"),
    "wrong_value": Fault("wrong value", faulty('return {"out": 1.1 * (inputs["x"] @ inputs["w"])}'),
                         "incorrect", "wrong_output", "out of tolerance, worst at"),
    "wrong_shape": Fault("wrong shape", faulty('return {"out": (inputs["x"] @ inputs["w"])[:-1].clone()}'),
                         "incorrect", "wrong_form", "is float32[511, 512]; it must be float32[512, 512]"),
    "wrong_dtype": Fault("wrong dtype", faulty('return {"out": (inputs["x"] @ inputs["w"]).bfloat16()}'),
                         "incorrect", "wrong_form", "is bfloat16[512, 512]; it must be float32[512, 512]"),
    "other_output": Fault("output of another name", faulty('return {"result": inputs["x"] @ inputs["w"]}'),
                          "incorrect", "wrong_form", "returned no output out; it returned result"),
    "a_list": Fault("a list instead of tensors by name", faulty('return [inputs["x"] @ inputs["w"]]'),
                    "incorrect", "wrong_form", "must return a dict of tensors"),
    "view": Fault("a view of its input", faulty('return {"out": inputs["x"].view(256, 512)}'),
                  "incorrect", "wrong_form", "share memory: out with x"),
    "expanded": Fault("an expanded tensor",
                      faulty('return {"out": torch.zeros(1, 512, device=inputs["x"].device).expand(512, 512)}'),
                      "incorrect", "wrong_form", "elements that share memory"),
    "writes_input": Fault("writes to its input",
                          faulty('out = inputs["x"] @ inputs["w"]\ninputs["w"].mul_(2)\nreturn {"out": out}'),
                          "incorrect", "inputs_changed", "It changed its inputs: w."),
    "unwritten": Fault("writes no output", faulty('return {"out": torch.empty(512, 512, device=inputs["x"].device)}'),
                       "incorrect", "wrong_output", "262144 of 262144 elements are"),
    "segfault": Fault("segfault", faulty("ctypes.string_at(0)"), "failed", "crashed", "died of SIGSEGV."),
    "aborts": Fault("abort", faulty("os.abort()"), "failed", "crashed", "died of SIGABRT."),
    "os_exit": Fault("exits at once", faulty('os.write(2, b"bye\\x1b[31m\\n")\nos._exit(0)'),
                     "failed", "crashed", "exited with status 0. Its last words: bye[31m"),
    "sys_exit": Fault("sys.exit", faulty('sys.exit("done here")'), "failed", "raised", "SystemExit: done here"),
    "odd_exception": Fault("an exception that cannot be told", faulty(
        'class Odd(BaseException):\n    def __str__(self):\n        raise KeyError\nraise Odd'),
        "failed", "raised", "It raised Odd: no message, as its __str__ raised KeyError"),
    "leaks_files": Fault("leaves no file to be opened", faulty(
        f"try:\n    while True:\n        os.dup(0)\nexcept OSError:\n    pass\n{RIGHT}"),
        "failed", "raised", "Too many open files"),
    "lowers_limits": Fault("lowers what its process may take", faulty(
        f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n{RIGHT}"),
        "incorrect", "tampered", "when it was run: limits (RLIMIT_NOFILE"),
    "hides_imports": Fault("leaves nothing to be imported", faulty(f"sys.path.clear()\nsys.meta_path.clear()\n{RIGHT}"),
                           "incorrect", "tampered", "when it was run: import path"),
    "default_device": Fault("has tensors made elsewhere", faulty(f'torch.set_default_device("meta")\n{RIGHT}'),
                            "incorrect", "tampered", "when it was run: default_device"),
    "no_room": Fault("says that the disk is full", faulty('raise OSError(28, "No space left on device")'),
                     "failed", "raised", "No space left on device; but there is room"),
    "loops": Fault("endless loop on the host", faulty("while True:\n    time.sleep(0.01)"),
                   "failed", "hung", "did not finish within"),
    "memory": Fault("more memory than there is", faulty('return {"out": torch.empty(1 << 50)}'),
                    "failed", "out_of_memory", "ran out of memory"),
    "hoards": Fault("takes the host's memory piece by piece",
                    faulty('kept = []\nwhile True:\n    kept.append(bytearray(64 << 20))\n'
                           '    kept[-1][::4096] = b"x" * 16384'),
                    "failed", "out_of_memory", "GiB of the machine's memory, and"),
    "forks": Fault("fork bomb", faulty("for _ in range(6):\n    os.fork()\ntime.sleep(600)"),
                   "failed", "crashed", "processes, and 24 are the most: all were ended."),
    "prints_on": Fault("runaway output", faulty('while True:\n    os.write(1, b"x" * 65536)\n    time.sleep(0.001)'),
                       "failed", "crashed", "MiB are the most"),
    "signals": Fault("stops its own process", faulty("import signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
                     "failed", "hung", "did not finish within"),
    "kills": Fault("kills its own process", faulty("import signal\nos.kill(os.getpid(), signal.SIGKILL)"),
                   "failed", "out_of_memory", "was killed, as the kernel does when memory runs out"),
    "syntax": Fault("syntax error", "def run(:\n", "failed", "raised",
                    "kernels/toy/syntax.py declares no usable KERNEL: invalid syntax"),
    "no_kernel": Fault("declares no kernel", "import torch\n", "failed", "raised",
                       "the module has no top-level `KERNEL = Kernel(...)`"),
    "import_error": Fault("import error", faulty(RIGHT, before="import not_there"),
                          "failed", "raised", "No module named 'not_there'"),
    "import_exits": Fault("exits when imported", faulty(RIGHT, before="os._exit(3)"),
                          "failed", "crashed", "It cannot be loaded. Its process exi"),
    "import_loops": Fault("endless loop when imported", faulty(RIGHT, before="time.sleep(1000)"),
                          "failed", "hung", "did not finish within"),
    "import_interrupts": Fault("raises what is no Exception when imported", faulty(RIGHT, before="raise GeneratorExit"),
                               "failed", "raised", "It cannot be loaded: GeneratorExit"),
    "supports_all": Fault("supports returns True", faulty(
        RIGHT, before="def supports(problem, device):\n    return True", arguments=", supports=supports"),
        "failed", "raised", "supports returned True; it must return None, or the sentence"),
    "odd_version": Fault("its version is a number",
                         faulty(RIGHT, before="def version():\n    return 5", arguments=", version=version"),
                         "failed", "raised", "version returned 5; it must return a text"),
    "odd_factors": Fault("factors that are no numbers", faulty(RIGHT, arguments=', output_factors={"out": "1"}'),
                         "failed", "raised", "it must hold finite numbers by output"),
    "odd_origin": Fault("an origin that is not known", faulty(RIGHT).replace("Origin.HAND", "Origin.MINE"),
                        "failed", "raised", "origin must be written as one of Origin.REFERENCE"),
    "requires": Fault("needs what is not installed", faulty(RIGHT, arguments=', requires=("not_there",)'),
                      "skipped", "not_supported", "module not_there cannot be imported"),
    "late_wrong": Fault("wrong in timed calls only", faulty(
        'calls[0] += 1\nreturn {"out": (inputs["x"] @ inputs["w"]) * (1 + calls[0] // 8)}', before=TIMED),
        "incorrect", "wrong_output", "In a timed call: Output out is wrong", ON_CPU),
    "late_raises": Fault("raises in timed calls only",
                         faulty(f'{IF_TIMED}raise RuntimeError("tired")\n{RIGHT}', before=TIMED),
                         "failed", "raised", "RuntimeError: tired", ON_CPU),
    "late_crash": Fault("crashes in timed calls only", faulty(f"{IF_TIMED}ctypes.string_at(0)\n{RIGHT}", before=TIMED),
                        "failed", "crashed", "died of SIGSEGV", ON_CPU),
    "late_writes": Fault("writes to its inputs in timed calls only",
                         faulty(f'{IF_TIMED}inputs["w"].zero_()\n{RIGHT}', before=TIMED),
                         "incorrect", "inputs_changed", "its inputs were changed", ON_CPU),
    "late_leaks": Fault("leaks memory from call to call",
                        faulty(f'kept.append(b"x" * (500 << 20))\n{RIGHT}', before="kept = []"),
                        "failed", "out_of_memory", "GiB of the machine's memory, and", ON_CPU),
    "threads": Fault("leaves threads behind in each call", faulty(
        f"for _ in range(300):\n    threading.Thread(target=time.sleep, args=(600,)).start()\n{RIGHT}",
        before="import threading"), "failed", "crashed", "threads, and ", ON_CPU),
    "vendor_wrong": Fault("a vendor's library is wrong",
                          kernel("VENDOR").replace('inputs["x"] @', '0.5 * inputs["x"] @'),
                          "incorrect", "wrong_output", "out of tolerance"),
    "gpu_loops": Fault("endless loop on the device", faulty(f"torch.cuda._sleep(1 << 60)\n{RIGHT}"),
                       "failed", "hung", "did not finish within", ON_GPU),
    "gpu_illegal": Fault("illegal address", _gpu(
        f'poke[(1,)](inputs["x"].new_empty(16), 1 << 44)\ntorch.cuda.synchronize()\n{RIGHT}', ILLEGAL),
        "failed", "crashed", "illegal memory access", ON_GPU),
    "gpu_misaligned": Fault("misaligned access", _gpu(
        f'poke[(1,)](inputs["x"].new_empty(16))\ntorch.cuda.synchronize()\n{RIGHT}', MISALIGNED),
        "failed", "crashed", "misaligned address", ON_GPU),
    "gpu_asserts": Fault("device assert", faulty(
        'index = torch.full((1,), 1 << 30, device="cuda")\n'
        f'inputs["x"].clone()[index]\ntorch.cuda.synchronize()\n{RIGHT}'),
        "failed", "crashed", "device-side assert", ON_GPU),
    "gpu_memory": Fault("more memory than the device has",
                        faulty('return {"out": torch.empty(1 << 50, device="cuda")}'),
                        "failed", "out_of_memory", "ran out of memory", ON_GPU),
    "gpu_leaks": Fault("leaves the device's memory full", faulty(
        'free, _ = torch.cuda.mem_get_info()\n'
        f'kept.append(torch.empty(int(0.9 * free), dtype=torch.uint8, device="cuda"))\n{RIGHT}', before="kept = []"),
        "failed", "out_of_memory", "ran out of memory", ON_GPU),
}  # fmt: skip

PRINTS = faulty(
    f'print(\'{{"status": "ran"}}\', flush=True)\nos.write(1, b"\\x00\\xff garbage\\n")\n{RIGHT}', before="print('[')"
)
DETACHES = faulty(f"if not calls:\n    calls.append(1)\n    spawn()\n{RIGHT}",
                  before="calls = []\ndef spawn():\n    " + SPAWN.replace("\n", "\n    ").rstrip())  # fmt: skip
"""Right, but leaves a process behind that has left its session."""
LITTERS = faulty(f"if not calls:\n    calls.append(1)\n    here = os.getcwd()\n    for _ in range(1200):\n"
                 f"        os.mkdir('deeper')\n        os.chdir('deeper')\n    os.chdir(here)\n{RIGHT}",
                 before="calls = []")  # fmt: skip
"""Right, but leaves folders behind that lie deeper in one another than Python follows."""
SOUND_SOURCES = {"prints": PRINTS, "detaches": DETACHES, "litters": LITTERS}
SOUND = ("toy/gen", "toy/hand", "toy/prints", "toy/detaches", "toy/litters", "toy/vendor")
"""Kernels that must be measured whatever the others do."""


def faults_of(kind: str) -> dict[str, Fault]:
    """Those of a kind of device."""
    return {name: fault for name, fault in FAULTS.items() if kind in fault.on}
