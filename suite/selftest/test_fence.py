"""The fence around a worker: what it may not reach or take, and that nothing of it is left behind."""

from __future__ import annotations

import ast
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from suite.measure import fence, watch
from suite.measure.fence import Limits, limits_here
from suite.measure.process import Worker, WorkerError, scrubbed_environment

SUITE = Path(fence.__file__).parents[1]
OPERATION = (
    "from __future__ import annotations\n\n\ndef go():\n    {body}\n    return {{'status': 'ran', 'said': said}}\n"
)
TIMEOUT_S = 30.0


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs lines of Python in a worker; `said` is what they answer."""
    root = tmp_path / "root"
    (root / "suite").mkdir(parents=True)
    for part in ("device", "measure", "__init__.py"):
        (root / "suite" / part).symlink_to(SUITE / part)
    (root / "kernels").symlink_to(SUITE.parent / "kernels")
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    workers: list[Worker] = []

    def run(body: str, limits: Limits | None = None, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        name = f"operation_{len(workers)}"
        (root / f"{name}.py").write_text(OPERATION.format(body="\n    ".join(body.splitlines())))
        code = (
            f"import suite.measure.worker as w, sys; w.OPERATIONS['go'] = '{name}:go'; sys.exit(w.main(sys.argv[1:]))"
        )
        (root / f"main_{name}.py").write_text(code)
        monkeypatch.setattr("suite.measure.process.MODULE", f"main_{name}")
        workers.append(Worker(root, tmp_path / "log", None, limits))
        workers[-1].request({"op": "echo", "status": "ran"}, TIMEOUT_S)  # a crew asks it to start
        return workers[-1].request({"op": "go"}, timeout_s)

    yield run
    for worker in workers:
        worker.kill()


def gone(pids: list[int]) -> bool:
    """Whether none of these processes runs any longer; a zombie does not run."""
    deadline = time.monotonic() + 10
    while any(watch._status(pid)[1] for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_no_credentials_no_foreign_folder_no_core_dump(ask: Callable[..., dict[str, Any]]) -> None:
    said = ask(
        "import os, resource, sys\n"
        "said = [dict(os.environ), os.getcwd(), sys.path, resource.getrlimit(resource.RLIMIT_CORE), os.listdir('.')]"
    )["said"]
    environment, folder, path, core, files = said
    assert "SECRET_TOKEN" not in environment
    assert files == []
    assert folder not in path
    assert SUITE.parent not in [Path(folder), *Path(folder).parents]
    assert os.stat(Path(folder)).st_mode & 0o077 == 0
    assert core == [0, 0]


def test_its_folder_goes_with_it(ask: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    worker = Worker(SUITE.parent, tmp_path / "log2")
    folder = Path(worker._folder)
    assert folder.is_dir()
    worker.kill()
    assert not folder.exists()


def test_no_network_where_it_can_be_left(ask: Callable[..., dict[str, Any]]) -> None:
    said = ask(
        "import os, socket\nfrom suite.measure import fence\n"
        "said = [sorted(name for _, name in socket.if_nameindex()), os.readlink('/proc/self/ns/net')]\n"
        "server = socket.create_server(('127.0.0.1', 0)) if said[0] == ['lo'] else None\n"
        "if server: socket.create_connection(server.getsockname(), timeout=5).close()",
        limits_here(user_namespace=True),
    )["said"]
    if any("network" in sentence for sentence in fence.what_is_possible(SUITE.parent, user_namespace=True)):
        pytest.skip("this machine lets nobody leave the network")
    assert said[0] == ["lo"]
    assert said[1] != os.readlink("/proc/self/ns/net")


def test_a_file_may_not_grow_without_end(ask: Callable[..., dict[str, Any]]) -> None:
    said = ask(
        "import errno\nsaid = None\n"
        "try:\n    with open('big', 'wb') as file:\n        file.write(bytes(1 << 20))\n"
        "except OSError as error:\n    said = errno.errorcode[error.errno]",
        replace(limits_here(), file_bytes=1 << 16),
    )["said"]
    assert said == "EFBIG"


def test_open_files_are_bounded(ask: Callable[..., dict[str, Any]]) -> None:
    said = ask(
        "import os\nsaid, kept = 0, []\n"
        "try:\n    while said < 1000:\n        kept.append(os.dup(0))\n        said += 1\n"
        "except OSError:\n    pass\nfor fd in kept: os.close(fd)",
        replace(limits_here(), open_files=100),
    )["said"]
    assert 10 < said < 100


def test_memory_of_all_its_processes_is_bounded(ask: Callable[..., dict[str, Any]]) -> None:
    held = "import os, time\nif os.fork() == 0:\n    block = bytearray(b'x') * (200 << 20)\ntime.sleep(60)"
    with pytest.raises(WorkerError, match=r"held 0\.[1-9] GiB of the machine's memory, and 0\.1 GiB") as caught:
        ask(held + "\nsaid = 0", replace(limits_here(), memory_bytes=100 << 20))
    assert caught.value.reason == "out_of_memory"


def test_a_fork_bomb_is_ended(ask: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    bomb = (
        "import os, time\n"
        f"def note():\n    with open({str(tmp_path / 'pids')!r}, 'a') as f: f.write(f'{{os.getpid()}}\\n')\n"
        "note()\n"
        "for _ in range(7):\n    if os.fork() == 0:\n        os.setsid()\n        note()\n"
        "time.sleep(60)\nsaid = 0"
    )
    with pytest.raises(WorkerError, match=r"It had \d+ processes, and 20 are the most: all were ended") as caught:
        ask(bomb, replace(limits_here(), processes=20))
    assert caught.value.reason == "crashed"
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) > 20
    assert gone(pids)


def test_threads_are_counted(ask: Callable[..., dict[str, Any]]) -> None:
    body = "import threading, time\nfor _ in range(60): threading.Thread(target=time.sleep, args=(60,)).start()\n"
    with pytest.raises(WorkerError, match=r"It had \d+ threads, and 50 are the most") as caught:
        ask(f"{body}time.sleep(60)\nsaid = 0", replace(limits_here(), threads=50))
    assert caught.value.reason == "crashed"


def test_what_takes_too_much_between_short_calls_is_ended(tmp_path: Path) -> None:
    worker = Worker(SUITE.parent, tmp_path / "log", None, replace(limits_here(), threads=0))
    replies = iter([{"ask": "renew"}] * 3)
    worker.send = lambda message: None  # type: ignore[method-assign]
    worker.receive = lambda timeout_s: next(replies)  # type: ignore[method-assign]
    try:
        with pytest.raises(WorkerError, match="and 0 are the most"):
            worker.request({}, TIMEOUT_S, answer=lambda question: {})
    finally:
        worker.kill()


STRAY = (
    "import os, subprocess, sys, time\nread, write = os.pipe()\n"
    "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.setsid()\n"
    "        os.write(write, str(os.getpid()).encode())\n        {last}\n    os._exit(0)\n"
    "os.wait()\nstray = int(os.read(read, 20))\n"
)


LASTS = ("time.sleep(60)", "os.execve('/bin/sleep', ['sleep', '60'], {})")
LAST_IDS = ("forked", "without environment")


@pytest.mark.parametrize("last", LASTS, ids=LAST_IDS)
def test_what_left_its_session_is_ended_with_it(ask: Callable[..., dict[str, Any]], tmp_path: Path, last: str) -> None:
    pidfile = tmp_path / "stray"
    body = STRAY.format(last=last) + f"open({str(pidfile)!r}, 'w').write(str(stray))\ntime.sleep(60)\nsaid = 0"
    with pytest.raises(WorkerError, match="did not finish within 2 s"):
        ask(body, timeout_s=2.0)
    assert gone([int(pidfile.read_text())])


@pytest.mark.parametrize("last", LASTS, ids=LAST_IDS)
def test_what_survives_a_worker_is_ended(ask: Callable[..., dict[str, Any]], tmp_path: Path, last: str) -> None:
    if last != LASTS[0] and fence.what_is_possible(SUITE.parent, user_namespace=True):
        pytest.skip("without a network of its own, nothing tells whose process it is")
    pidfile = tmp_path / "stray"
    body = STRAY.format(last=last) + f"open({str(pidfile)!r}, 'w').write(str(stray))\nos._exit(3)\nsaid = 0"
    with pytest.raises(WorkerError, match="exited with status 3"):
        ask(body, limits_here(user_namespace=True))
    assert gone([int(pidfile.read_text())])


@pytest.mark.parametrize("then", ["", "time.sleep(60)"], ids=["and answers", "and goes on"])
def test_runaway_output_is_cut(ask: Callable[..., dict[str, Any]], tmp_path: Path, then: str) -> None:
    body = f"import sys, time\nsys.stdout.write('x' * (4 << 20))\nsys.stdout.flush()\n{then}\nsaid = 0"
    with pytest.raises(WorkerError, match="It printed 4 MiB, and 1 MiB are the most"):
        ask(body, replace(limits_here(), printed_bytes=1 << 20))
    assert (tmp_path / "log").stat().st_size <= 1 << 20


def test_a_reply_that_drips_is_cut_off_in_time(ask: Callable[..., dict[str, Any]]) -> None:
    drip = "import os, sys, time\nwhile True:\n    os.write(int(sys.argv[2]), b'x')\n    time.sleep(0.05)\nsaid = 0"
    with pytest.raises(WorkerError, match="did not finish within 1 s"):
        ask(drip, timeout_s=1.0)


def test_a_worker_that_reads_no_request_does_not_hold_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.measure.process.SEND_TIMEOUT_S", 0.5)
    worker = Worker(SUITE.parent, tmp_path / "log")
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match="took no request for 0 s and was killed"):
        worker.send({"op": "echo", "padding": "x" * (1 << 20)})
    assert gone([worker.pid])


def test_looking_at_a_worker_costs_nothing_that_a_timing_would_feel(ask: Callable[..., dict[str, Any]]) -> None:
    process_watch = watch.Watch(os.getpid(), "token", limits_here(), Path(os.devnull))
    began = time.process_time()
    for _ in range(50):
        process_watch.trouble()
    assert (time.process_time() - began) / 50 < 0.02 * watch.EVERY_S


def test_paths_of_the_parent_stay_right_in_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"here{os.pathsep}{os.pathsep}/there")
    path = scrubbed_environment(Path("/root of all"))["PYTHONPATH"].split(os.pathsep)
    assert path == ["/root of all", os.path.abspath("here"), "/there"]


def test_nothing_is_pickled_across_the_boundary() -> None:
    """Pickled data runs code where it is read: no module of suite/ loads any, and torch only as weights-free bytes."""
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    found = []
    for path in (p for p in sorted(SUITE.rglob("*.py")) if "adversaries" not in p.parts):  # these try everything
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").partition(".")[0]]
            is_load = isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "torch.load",
                "torch.save",
                "numpy.load",
            )
            if is_load or forbidden & set(names) or {"multiprocessing"} & set(names):
                found.append(f"{path.relative_to(SUITE)}: {ast.unparse(node)}")
    assert not found


def test_what_the_fence_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(sentence.endswith(".") for sentence in fence.what_is_possible(SUITE.parent, user_namespace=True))
    monkeypatch.setattr("sys.executable", "false")
    (sentence,) = fence.what_is_possible(SUITE.parent, user_namespace=True)
    assert sentence.startswith("A worker's fence could not be tried: ")
