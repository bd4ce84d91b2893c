"""Archives of arrays (`.npz`) from strangers: nothing is unpickled, and nothing larger than it says is unpacked."""

from __future__ import annotations

import math
import os
import sys
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from auditkit.quoting import printable

__all__ = ["available_memory", "read_arrays"]

Arrays = dict[str, NDArray[Any]]

_SUFFIX = ".npy"
_ARRAY = b"\x93NUMPY"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_CGROUP = Path("/sys/fs/cgroup")


def read_arrays(stream: IO[bytes], names: Sequence[str] | None = None) -> tuple[Arrays, tuple[str, ...]]:
    """Return the arrays of an archive, those of `names` if given, and the names of all that are in it.

    Before anything is unpacked, what each array's header claims is held against the size of its member, and the sum
    against the memory that is left: neither a header nor a bomb can make the process allocate more than there is.

    Raises:
        ValueError: it is damaged or no archive, two arrays have one name, or one of those wanted holds pickled objects,
            is of another size than its header says, or is too large; the message is one line.
    """
    try:
        if stream.read(len(_ARRAY)) == _ARRAY:
            raise ValueError("it holds a single array, wanted an archive of named arrays")
        stream.seek(0)
        with zipfile.ZipFile(stream) as archive:
            members = _members(archive)
            wanted = {name: members[name] for name in (members if names is None else names) if name in members}
            _check_sizes(archive, wanted)
            return {name: _array(archive, name, member) for name, member in wanted.items()}, tuple(members)
    # Damage surfaces as an error of zipfile, zlib, lzma, bz2, struct, tokenize, ast or numpy.
    except Exception as error:
        raise ValueError(" ".join(printable(str(error)).split()) or type(error).__name__) from error


def available_memory() -> int | None:
    """Return how many bytes can still be allocated without swapping; None where the system does not tell.

    Inside a container, its own limit counts.
    """
    known = [room for room in (_of_machine(), _of_container()) if room is not None]
    return min(known, default=None)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if not info.filename.endswith(_SUFFIX):
            continue  # no array: numpy never writes one of another ending
        name = info.filename.removesuffix(_SUFFIX)
        if name in members:
            raise ValueError(f"two of its arrays are called {name}")
        members[name] = info
    return members


def _check_sizes(archive: zipfile.ZipFile, wanted: dict[str, zipfile.ZipInfo]) -> None:
    total = 0
    for name, info in wanted.items():
        with archive.open(info) as member:
            claimed = _claimed_size(name, member)
            held = info.file_size - member.tell()
        if claimed != held:
            raise ValueError(f"the header of {name} speaks of {claimed} bytes, and {held} follow")
        total += claimed
    room = available_memory()
    if room is not None and total > room:
        raise ValueError(f"its arrays take {total / 1e9:.1f} GB of memory, and {room / 1e9:.1f} GB are left")


def _claimed_size(name: str, member: IO[bytes]) -> int:
    """Return the size of an array in bytes as its header has it.

    Raises:
        ValueError: it holds pickled objects, or nothing that makes sense.
    """
    version = np.lib.format.read_magic(member)
    if version not in _HEADERS:
        raise ValueError(f"{name} is an array of format {version[0]}.{version[1]}, wanted 1.0 or 2.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote; they are read all the same
        shape, _, dtype = _HEADERS[version](member)
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are not loaded")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or (count and not dtype.itemsize):
        raise ValueError(f"the header of {name} speaks of shape {shape} and type {dtype}, which no array has")
    return count * dtype.itemsize


def _array(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as member, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
    # numpy makes Python texts of any numbers, and such a text crashes whatever looks at it.
    if array.dtype.kind == "U" and array.size and _code_points(array).max() > sys.maxunicode:
        raise ValueError(f"{name} holds texts with characters that do not exist")
    if array.dtype.names is not None:
        raise ValueError(f"{name} is an array of records, wanted numbers or texts")
    return array


def _code_points(texts: NDArray[np.str_]) -> NDArray[np.uint32]:
    return np.frombuffer(texts.tobytes(), dtype=np.dtype(np.uint32).newbyteorder(texts.dtype.byteorder))


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return None


def _of_container() -> int | None:
    try:
        limit, used = (
            (_CGROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current")
        )
        return None if limit == "max" else max(int(limit) - int(used), 0)
    except (OSError, ValueError):
        return None
