"""Compiled kernels are cached by a hash of all their sources, or not at all."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phi3quant.quant.codecs import compile_ahead, kernel_cache

PACKAGES = Path(kernel_cache.__file__).parents[3]
TRY = (
    "import numpy as np\n"
    "from phi3quant.quant.codecs import kernel_cache, lanes\n"
    "print(kernel_cache.folder())\n"
    "print(lanes.put_half(np.zeros(2, np.uint8), 0, np.float32(1.5)))\n"
    "print(sum(lanes.put_half.stats.cache_hits.values()))\n"
)


def compiled(**environment: str) -> list[str]:
    """The cache folder, a kernel's result and the number of cache hits."""
    inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-c", TRY]
    done = subprocess.run(
        command, env={**inherited, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_file_with_a_kernel_is_in_the_key() -> None:
    files = [*PACKAGES.glob("phi3quant/**/*.py"), *PACKAGES.glob("converters/**/*.py")]
    with_kernels = {
        path for path in files if re.search(r"^@kernel", path.read_text("utf-8"), re.MULTILINE)
    }
    assert with_kernels <= set(kernel_cache.sources())
    assert len(with_kernels) > 5


@pytest.mark.parametrize("name", ["lanes.py", "bits.py"])
def test_a_change_of_a_callee_changes_the_key(name: str, tmp_path: Path) -> None:
    copies = [Path(shutil.copy(path, tmp_path)) for path in kernel_cache.sources()]
    before = kernel_cache.key(copies)
    assert before == kernel_cache.key(kernel_cache.sources())
    changed = tmp_path / name
    stamp = changed.stat().st_mtime_ns
    changed.write_bytes(changed.read_bytes().replace(b"0", b"1", 1))
    os.utime(changed, ns=(stamp, stamp))
    assert kernel_cache.key(copies) != before


@pytest.mark.parametrize("library", ["numba", "np", "llvmlite"])
def test_another_compiler_changes_the_key(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kernel_cache.key([])
    monkeypatch.setattr(f"phi3quant.quant.codecs.kernel_cache.{library}.__version__", "0.0")
    assert kernel_cache.key([]) != before


def test_kernels_are_cached_in_the_users_cache_folder_and_reused(tmp_path: Path) -> None:
    first, again = (compiled(XDG_CACHE_HOME=str(tmp_path)) for _ in range(2))
    assert Path(first[0]).parent == tmp_path / "phi3quant"
    assert first[1:] == ["1.5", "0"]
    assert again == [first[0], "1.5", "1"]


def test_damaged_machine_code_is_compiled_again(tmp_path: Path) -> None:
    folder = Path(compiled(XDG_CACHE_HOME=str(tmp_path))[0])
    for path in folder.rglob("*.nb*"):
        path.write_bytes(path.read_bytes()[:20])
    assert compiled(XDG_CACHE_HOME=str(tmp_path))[1] == "1.5"


def test_kernels_work_without_a_folder_to_write_to(tmp_path: Path) -> None:
    # Unlike permissions, a file in place of the folder stops root too.
    (tmp_path / "phi3quant").write_text("")
    assert compiled(XDG_CACHE_HOME=str(tmp_path)) == ["None", "1.5", "0"]


def test_numba_cache_dir_sets_the_folder(tmp_path: Path) -> None:
    assert Path(compiled(NUMBA_CACHE_DIR=str(tmp_path))[0]).parent == tmp_path


def test_folders_without_use_for_a_month_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    old, recent, foreign = "kernels-0123456789abcdef", "kernels-0123456789abcde0", "letters"
    for name, days in ((old, 31), (recent, 29), (foreign, 99)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, time.time() - days * 86400))
    current = kernel_cache.folder.__wrapped__()
    assert current is not None
    assert {path.name for path in tmp_path.iterdir()} == {recent, foreign, current.name}


AHEAD = (
    "import torch\n"
    "from phi3quant.quant.codecs import affine_compensation, affine_search, compile_ahead\n"
    "from phi3quant.quant.codecs.affine import AffineCodec\n"
    "from phi3quant.quant.gram import Gram\n"
    "from phi3quant.quant.scheme import QuantScheme\n"
    "compile_ahead.compile_all()\n"
    "weight, gram = torch.ones(64, 256), Gram.of(torch.ones(8, 256))\n"
    "for symmetric in (True, False):\n"
    "    codec = AffineCodec(QuantScheme(4, 32, symmetric))\n"
    "    codec.quantize_fitted(weight, gram)\n"
    "    codec.quantize_compensated(weight, gram, weight)\n"
    "for kernel in (affine_search.fit, affine_compensation.compensate):\n"
    "    print(len(kernel.signatures))\n"
)


def test_kernels_are_compiled_ahead_for_the_types_of_a_run() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AHEAD], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "1"]


def test_a_kernel_that_another_process_compiles_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    class Compiler:
        waits = 0

        def wait(self, timeout: float) -> None:
            assert timeout > 60
            self.waits += 1

    class Cache:
        def load_overload(self, signature: str) -> str | None:
            return signature if compiler.waits else None

    compiler = Compiler()
    monkeypatch.setattr(kernel_cache, "compilers", {"fit": compiler})
    assert kernel_cache.Forgiving(Cache(), "round_rows").load_overload("other") is None
    assert kernel_cache.Forgiving(Cache(), "fit").load_overload("code") == "code"
    assert compiler.waits == 1


@pytest.mark.parametrize(("cores", "started"), [(2, 1), (1, 0)])
def test_compiling_ahead_starts_once_on_two_cores(
    cores: int, started: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    class Process:
        def __init__(self, command: list[str], **_given: object) -> None:
            calls.append(command)

        def terminate(self) -> None:
            pass

    monkeypatch.setattr(kernel_cache, "folder", lambda: tmp_path)
    monkeypatch.setattr(kernel_cache, "compilers", {})
    monkeypatch.setattr(compile_ahead, "_cores", lambda: cores)
    monkeypatch.setattr(subprocess, "Popen", Process)
    compile_ahead.start()
    assert len(calls) == started
    assert set(kernel_cache.compilers) == ({"fit", "compensate"} if started else set())
    (tmp_path / "codecs").mkdir()
    for name in ("affine_search.fit-1.nbi", "affine_compensation.compensate-1.nbi"):
        (tmp_path / "codecs" / name).touch()
    compile_ahead.start()
    assert len(calls) == started
