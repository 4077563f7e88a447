"""What the compiler made of one Triton function: registers, spills, matrix instructions, a hash of the code.

Sources of the figures: AMD, the `.amdgpu_metadata` note that LLVM writes at the end of its assembly; NVIDIA,
`cuobjdump --dump-resource-usage` of Triton's own wheel. Neither needs a GPU.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from typing import Any

BYTES_PER_REGISTER = 4
CUOBJDUMP_TIMEOUT_S = 60

MATRIX_INSTRUCTIONS = {
    "ptx": {
        "wgmma": r"^\s*(?:@!?%p\d+\s+)?wgmma\.mma_async",
        "tcgen05": r"^\s*(?:@!?%p\d+\s+)?tcgen05\.mma\.",
        "mma": r"^\s*(?:@!?%p\d+\s+)?mma\.sync",
    },
    "amdgcn": {"mfma": r"^\s*v_s?mfma\w*_", "wmma": r"^\s*v_s?wmma\w*_"},
}
"""Mnemonics by the assembly that holds them. Sparse (`v_smfmac`) and scaled forms count as their kind."""

_AMD_FIGURES = {
    "registers": "vgpr_count",
    "spilled_registers": "vgpr_spill_count",
    "scratch_bytes": "private_segment_fixed_size",
    "accumulation_registers": "agpr_count",
    "scalar_registers": "sgpr_count",
    "spilled_scalar_registers": "sgpr_spill_count",
}


def describe(compiled: Any) -> dict[str, Any]:
    """Figures of one `triton.compiler.CompiledKernel`, as JSON values; what cannot be known here is absent.

    registers                   32-bit vector registers of a thread; on CDNA accumulation registers included
    spilled_registers           32-bit registers of a thread kept in memory; on NVIDIA local memory / 4, as Triton
    scratch_bytes               local memory (scratch) of a thread
    shared_memory_bytes         shared memory (LDS) of a block
    matrix_instructions         how often each kind occurs in the code, by name: {"wgmma": 8}; empty is none
    binary_sha256               of the binary; free of paths and line numbers only if compiled without line info
    """
    asm, metadata = compiled.asm, compiled.metadata
    figures = {
        "shared_memory_bytes": int(metadata.shared),
        "num_warps": int(metadata.num_warps),
        "num_stages": int(metadata.num_stages),
        "binary_sha256": hashlib.sha256(compiled.kernel).hexdigest(),
    }
    if getattr(metadata, "tmem_size", None):
        figures["tensor_memory_columns"] = int(metadata.tmem_size)
    figures |= amd_figures(asm["amdgcn"]) if "amdgcn" in asm else {}
    figures |= nvidia_figures(_resource_usage(asm["cubin"])) if "cubin" in asm else {}
    return {**figures, "matrix_instructions": matrix_instructions(asm)}


def matrix_instructions(asm: dict[str, Any]) -> dict[str, int]:
    """Occurrences of each kind of matrix instruction in the assembly text, without those that do not occur."""
    counted = {
        name: len(re.findall(pattern, asm[language], re.MULTILINE))
        for language, patterns in MATRIX_INSTRUCTIONS.items()
        if language in asm
        for name, pattern in patterns.items()
    }
    return {name: count for name, count in counted.items() if count}


def amd_figures(amdgcn: str) -> dict[str, int]:
    """Registers, spills and scratch from the metadata note of AMD assembly."""
    _, _, note = amdgcn.rpartition(".amdgpu_metadata\n---")
    found = dict(re.findall(r"\.(\w+):\s+(\d+)$", note, re.MULTILINE))
    return {ours: int(found[theirs]) for ours, theirs in _AMD_FIGURES.items() if theirs in found}


def nvidia_figures(resource_usage: str) -> dict[str, int]:
    """Registers and local memory from what `cuobjdump --dump-resource-usage` prints; the largest function counts."""
    registers = [int(n) for n in re.findall(r"\bREG:(\d+)", resource_usage)]
    local = [int(s) + int(x) for s, x in re.findall(r"\bSTACK:(\d+).*?\bLOCAL:(\d+)", resource_usage)]
    if not registers or not local:
        return {}
    scratch = max(local)
    return {"registers": max(registers), "spilled_registers": scratch // BYTES_PER_REGISTER, "scratch_bytes": scratch}


def _resource_usage(cubin: bytes) -> str:
    """Empty where this Triton ships no cuobjdump: the figures are then absent, not zero."""
    from triton import knobs

    try:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
            done = subprocess.run(command, capture_output=True, text=True, timeout=CUOBJDUMP_TIMEOUT_S, check=True)
            return done.stdout
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return ""
