"""What every part needs from its surroundings: progress, optional libraries, atomic writes, environment."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ctxembed._version import __version__
from ctxembed.errors import DiskFullError, MissingInputError, MissingLibraryError

T = TypeVar("T")

DEFAULT_MODEL = "default"
"""Stands for the model that ships wherever one is named."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk, a used-up quota and a limit on the size of files."""
RECORDED_LIBRARIES = (
    "torch",
    "tokenizers",
    "faiss-cpu",
    "numpy",
    "gensim",
    "scipy",
    "transformers",
    "sentence-transformers",
)


def require(library: str, extra: str) -> ModuleType:
    """Import an optional library.

    Raises:
        MissingLibraryError: With the pip line that installs it.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise MissingLibraryError(
            f"{library} is not installed: pip install '.[{extra}]' in a checkout of ctxembed"
        ) from error


def progress(items: Iterable[T], *, total: int | None = None, label: str = "", unit: str = "row") -> Iterable[T]:
    """Show a bar with rate and time left on stderr; silent when stderr is no terminal or the work is short."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=label, unit=unit, disable=None, delay=2.0, file=sys.stderr)


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def synced(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield items in lists of ``size``, the last one with what is left.

    >>> list(batched("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    stream = iter(items)
    while batch := list(itertools.islice(stream, size)):
        yield batch


def sha256_text(*parts: str) -> str:
    """Return the hex sha256 over several strings, each with its length, so that no two lists collide."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error says that there is no room to write.

    Libraries wrap the system's error in their own: FAISS, safetensors and SQLite leave only its words.
    """
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    words = (*map(os.strerror, NO_ROOM), "database or disk is full")
    return any(each in str(error) for each in words)


def disk_full(path: str | Path, error: BaseException) -> DiskFullError:
    """Return the error that tells a user which file found no room, and what to do."""
    number = error.errno if isinstance(error, OSError) and error.errno in NO_ROOM else errno.ENOSPC
    return DiskFullError(
        f"the disk is full: {path} could not be written ({os.strerror(number)}); free some space and run the command "
        "again, with --resume if it has it"
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what any library says about a full disk into one clear error.

    Raises:
        DiskFullError: If something inside the block found no room; every other error is left as it is.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(path, error) from error
        raise


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it is flushed to disk and renamed over it when the block succeeds.

    The file gets the rights that new files have here, whatever the library that writes it gives them: safetensors makes
    files that only their owner may read.

    Raises:
        DiskFullError: If there is no room; the temporary file is gone then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            rights = temporary.stat().st_mode
            yield temporary
            temporary.chmod(rights)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory beside ``path`` that takes its place when the block succeeds.

    Raises:
        DiskFullError: If there is no room; the directory is gone then.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            yield staging
            staging.chmod(0o755)
            if path.exists():
                previous = path.with_name(f".{path.name}.{os.getpid()}.old")
                path.replace(previous)
                staging.replace(path)
                shutil.rmtree(previous)
            else:
                staging.replace(path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented UTF-8 JSON, atomically; equal values give equal bytes."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n", encoding="utf-8")


def release_memory() -> None:
    """Hand freed memory back to the system, where the allocator can be told to (glibc); elsewhere do nothing.

    Tensors of ever other sizes leave a heap full of gaps: over a long stream they came to a gigabyte.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def keep_memory() -> None:
    """Let the allocator (glibc) keep freed memory for the next step instead of handing it back; elsewhere do nothing.

    A training step frees and asks for the same gigabyte again, and fresh pages cost a sixth of its time.
    """
    if sys.platform == "linux":
        mmap_threshold, trim_threshold, most = -3, -1, 2**31 - 1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(mmap_threshold, most)
            library.mallopt(trim_threshold, most)


SPINS = 10_000
"""Some twenty microseconds: longer than most waits inside a computation, shorter than any other program's turn."""


def wait_briefly() -> None:
    """Let idle threads of a computation give the processor up soon; call it before torch or FAISS is imported.

    Between two parts of a computation GNU OpenMP's threads spin for milliseconds. On a machine that does other work as
    well, the thread that spins keeps the one that works from running. What the user has set in OMP_WAIT_POLICY or
    GOMP_SPINCOUNT stands.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def existing(path: str | Path) -> Path:
    """Return the path if something is there.

    Raises:
        MissingInputError: If nothing is.
    """
    path = Path(path)
    if not path.exists():
        raise MissingInputError(f"{path} does not exist: check the spelling, or where you are ({Path.cwd()})")
    return path


def data_directory() -> Path:
    """Return the folder that ships with the package: sample corpora, benchmarks and models.

    Raises:
        MissingInputError: If the package was installed without it.
    """
    spec = importlib.util.find_spec("ctxembed_data")
    if spec is None or not spec.submodule_search_locations:
        raise MissingInputError("the package ctxembed_data is not installed: reinstall ctxembed from its wheel")
    return Path(next(iter(spec.submodule_search_locations)))


def cache_directory() -> Path:
    """Return the folder for what can be computed again; the variable CTXEMBED_CACHE moves it."""
    if override := os.environ.get("CTXEMBED_CACHE"):
        return Path(override)
    import platformdirs

    return Path(platformdirs.user_cache_dir("ctxembed"))


def environment() -> dict[str, Any]:
    """Describe versions and machine kind for result files: no host name, no path, no time."""
    versions = {"ctxembed": __version__, "python": platform.python_version()}
    for library in RECORDED_LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return {
        "versions": versions,
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
    }


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def model_folder(name: str | Path | None, kind: str = "encoder") -> Path:
    """Return the folder that a name stands for: that of the model which ships for None or ``DEFAULT_MODEL``.

    Raises:
        MissingInputError: If this installation ships none of that kind.
    """
    return default_model(kind) if name is None or name == DEFAULT_MODEL else Path(name)


def default_model(kind: str) -> Path:
    """Return the folder of a model that ships: ``encoder``, ``static`` or ``denoiser``.

    Raises:
        MissingInputError: If this installation has none.
    """
    path = data_directory() / "models" / kind
    if not path.is_dir():
        raise MissingInputError(f"this installation ships no {kind} model: train one, and name its folder")
    return path
