"""Devices: what `--gpu` means on machines of all kinds, and how they are found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from suite.device import cpu, detect, probe, specs
from suite.device.detect import DeviceError, FoundGPU, choose
from suite.selftest.machines import EPYC, found, machine

# ---- what --gpu means


def test_auto_takes_the_gpu_else_the_cpu() -> None:
    assert choose("auto", machine(found("h200"))).key == "h200"
    assert choose("auto", machine()).key == EPYC.key
    assert choose("cpu", machine(found("h200"))).key == EPYC.key


def test_auto_prefers_a_gpu_of_the_data_sheet() -> None:
    display = found("h200", key=None, name="NVIDIA T1000", num_sms=14)
    assert choose("auto", machine(display, found("h200", index=1))).index == 1


def test_a_key_takes_the_first_of_several() -> None:
    gpus = [found("h100"), found("h200", index=1, uuid="GPU-1"), found("h200", index=2, uuid="GPU-2")]
    chosen = choose("h200", machine(*gpus))
    assert (chosen.index, chosen.uuid) == (1, "GPU-1")


def test_absent_device_says_what_is_here_and_what_to_do() -> None:
    with pytest.raises(DeviceError) as error:
        choose("mi300x", machine())
    assert str(error.value) == (
        "--gpu mi300x: no AMD Instinct MI300X is here. This machine has no GPU; it has an AMD EPYC CPU with 2 cores. "
        "Run with --gpu cpu, or add --compile-only to compile every Triton kernel for gfx942 without the device."
    )


def test_absent_device_counts_the_gpus_that_are_here() -> None:
    with pytest.raises(
        DeviceError, match=r"has 2 x NVIDIA H200 \(--gpu h200\) and an AMD EPYC CPU.*Run with --gpu h200"
    ):
        choose("mi300x", machine(found("h200"), found("h200", index=1)))


def test_compile_only_is_not_offered_where_it_cannot_work() -> None:
    with pytest.raises(DeviceError, match=r"Run with --gpu cpu\.$"):
        choose("b300", machine())


def test_a_partition_is_not_the_device() -> None:
    partition = found("mi300x", key=None, num_sms=38)
    with pytest.raises(DeviceError, match="gfx942 with 38 SMs where mi300x is gfx942 with 304"):
        choose("mi300x", machine(partition))
    chosen = choose("auto", machine(partition))
    assert (chosen.key, chosen.spec) == ("amd-instinct-mi300x-gfx942-38sm", None)
    assert chosen.device.fp8_dtype == "float8_e4m3fnuz"
    assert chosen.last_level_cache_bytes == 256 << 20


def test_unknown_key_says_what_is_known_and_what_is_here() -> None:
    with pytest.raises(DeviceError, match=r"No device is called 'mi300'.*Known are auto, cpu, a100.*has no GPU"):
        choose("mi300", machine())


def test_another_cpu_is_another_device() -> None:
    with pytest.raises(DeviceError, match="another CPU than this one, which is cpu-amd-epyc-avx512-2c"):
        choose("cpu-amd-epyc-avx512-96c", machine())
    assert choose(EPYC.key, machine()).key == EPYC.key


def test_without_torch_nothing_is_chosen() -> None:
    with pytest.raises(DeviceError, match=r"without PyTorch.*No module"):
        choose("auto", machine(torch=None, problems=("torch cannot be imported (No module named 'torch').",)))


def test_problems_reach_the_error_and_the_record() -> None:
    problem = "An NVIDIA driver is here, but PyTorch is built without CUDA."
    with pytest.raises(DeviceError, match="built without CUDA"):
        choose("h200", machine(problems=(problem,)))
    assert choose("auto", machine(problems=(problem,))).record()["problems"] == [problem]


@pytest.mark.parametrize("key", [spec.key for spec in specs.load_specs()])
def test_kernels_plan_with_the_sheet_where_it_is_complete(key: str) -> None:
    """Else a machine without the device would compile something else than the device runs."""
    spec, chosen = specs.spec_by_key(key), choose(key, machine(found(key)))
    expected = 65536 if spec.shared_memory_bytes is None else spec.shared_memory_bytes
    assert chosen.device == replace(spec, shared_memory_bytes=expected).device()
    assert chosen.last_level_cache_bytes >= (spec.last_level_cache_bytes or 1)


@pytest.mark.parametrize("gpu", ["cpu", "mi300x"])
def test_chosen_device_survives_json(gpu: str) -> None:
    chosen = choose(gpu, machine(found("mi300x")))
    assert detect.ChosenDevice.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen
    assert {"key", "name", "kind", "arch", "num_sms", "memory_bytes", "uuid", "index"} <= chosen.record().keys()


# ---- looking


def test_detect_finds_this_machine_without_importing_torch_here() -> None:
    """In a fresh process: other tests may have imported torch into this one."""
    code = (
        "import json, sys; from suite.device.detect import choose, detect; d = detect(); "
        "print(json.dumps([d.torch, d.cpu.cores, choose('cpu', d).key, 'torch' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=detect.PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    torch_version, cores, key, imported = json.loads(done.stdout)
    assert re.match(r"\d+\.\d+", torch_version)
    assert (cores, key) == (cpu.usable_cores(), cpu.find_cpu().key)
    assert not imported


def test_a_child_that_hangs_or_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "took more than 0.01 s" in detect.detect(timeout_s=0.01).problems[0]
    monkeypatch.setattr(sys, "executable", "/bin/false")
    failed = detect.detect()
    assert failed.torch is None
    assert "failed with exit status 1" in failed.problems[0]


def test_probe_reads_torchs_properties_on_cuda() -> None:
    properties = SimpleNamespace(
        name="NVIDIA H200",
        major=9,
        minor=0,
        multi_processor_count=132,
        warp_size=32,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=232448,
        L2_cache_size=60 << 20,
        total_memory=140 << 30,
        uuid="7d2b6b9a-6f0f-4a57-8f51-0d5f3a3b7a11",
        pci_domain_id=0,
        pci_bus_id=27,
        pci_device_id=0,
    )
    device = probe.describe(properties, 3, SimpleNamespace(hip=None, cuda="13.0"))
    gpu = FoundGPU(**device)
    assert (gpu.key, gpu.arch, gpu.kind, gpu.index, gpu.shared_memory_bytes) == ("h200", "sm_90", "cuda", 3, 232448)
    assert (gpu.uuid, gpu.pci_bus_id) == ("GPU-7d2b6b9a-6f0f-4a57-8f51-0d5f3a3b7a11", "0000:1b:00.0")


def test_probe_reads_torchs_properties_on_rocm() -> None:
    properties = SimpleNamespace(
        name="AMD Instinct MI300X",
        gcnArchName="gfx942:sramecc+:xnack-",
        multi_processor_count=304,
        shared_memory_per_block=65536,
        total_memory=192 << 30,
        uuid="32663863-3965-3362-3461-356436653766",  # the hex of 16 letters
    )
    gpu = FoundGPU(**probe.describe(properties, 0, SimpleNamespace(hip="7.0", cuda=None)))
    assert (gpu.key, gpu.arch, gpu.kind, gpu.warp_size, gpu.runtime) == ("mi300x", "gfx942", "hip", 64, "ROCm 7.0")
    assert (gpu.uuid, gpu.l2_bytes, gpu.pci_bus_id) == ("GPU-2f8c9e3b4a5d6e7f", 0, None)


def test_probe_tells_a_missing_build_from_a_missing_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nvidiactl").touch()
    torch = SimpleNamespace(__version__="2.13.0+cpu", version=SimpleNamespace(cuda=None, hip=None))
    monkeypatch.setattr(probe, "DRIVER_NODES", ((str(tmp_path / "nvidiactl"), "NVIDIA", "CUDA"),))
    assert ["built without CUDA" in problem for problem in probe._why_unavailable(torch)] == [True]
    monkeypatch.setattr(probe, "DRIVER_NODES", ((str(tmp_path / "absent"), "NVIDIA", "CUDA"),))
    assert list(probe._why_unavailable(torch)) == []


@pytest.mark.parametrize(
    ("raw", "slug"),
    [
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "intel-xeon-platinum-8481c"),
        ("AMD EPYC 9654 96-Core Processor", "amd-epyc-9654"),
        ("Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", "intel-core-i7-1165g7"),
        ("Apple M2", "apple-m2"),
    ],
)
def test_cpu_models_become_short_names(raw: str, slug: str) -> None:
    assert cpu.slug(cpu.clean_model(raw)) == slug


def test_cache_is_summed_over_distinct_ones_of_the_last_level(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "_usable_cpus", lambda: [0, 1, 2])
    for number, shared in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")):
        for index, level, size, shared_by in ((0, 2, "1024K", str(number)), (1, 3, "32M", shared)):
            folder = tmp_path / f"cpu{number}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for name, value in (("level", level), ("size", size), ("type", "Unified"), ("shared_cpu_list", shared_by)):
                (folder / name).write_text(f"{value}\n")
    assert cpu.last_level_cache_bytes(tmp_path) == 64 << 20


def test_cores_obey_the_containers_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert cpu.usable_cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu.usable_cores(tmp_path) == len(os.sched_getaffinity(0))
