"""Mutations inside of containers: what comes out has good checksums and lengths, and so is read further."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mutate import Draw

__all__ = ["bundle", "mutated_inside", "unbundle"]

Inner = Callable[[bytes, Sequence[bytes], Sequence[bytes], "Draw"], bytes]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"acTL")
_NPY = b"\x93NUMPY"
_HUGE = 2**20
_NPY_WORDS = (
    b"(9223372036854775807,)",
    b"(1, 9223372036854775808)",
    b"(-1,)",
    b"(1000000, 1000000, 3)",
    b"(0, 4000000000)",
    b"()",
    b"'|O'",
    b"'<f8'",
    b"'|b1'",
    b"'<U9999999'",
    b"'<M8[ns]'",
    b"'|V65536'",
    b"[('a', '<f4'), ('b', '|O')]",
    b"True",
    b"__import__('os').system('true')",
    b"9" * 5000,
    b"(" * 200,
    b"'shape'",
)
_NAMES = (
    "../secret.txt",
    "../../stray.npy",
    "/nowhere/stray.npy",
    "C:\\stray.npy",
    "x.npy",
    "y.npy",
    "x",
    "",
    "a" * 300,
    "\x00",
    "id.npy",
    "label.npy",
    "file.npy",
    "folder/",
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "NaN",
    "\x1b[2J",
    "two\nlines",
    "../secret.txt",
    "../../etc/passwd",
    "/etc/passwd",
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
    "\ud800",
    "\u202e",
    "a" * 5000,
    [],
    {},
    [[]],
    [1, 2, 3, 4],
    {"a": 1},
    "2027-01-31",
)


def mutated_inside(
    data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw, inner: Inner
) -> bytes | None:
    """Return a container with something in it mutated by `inner` or by a rule of its own; None if it is none."""
    if data.startswith(b"PK"):
        return _zip(data, corpus, words, draw, inner)
    if data.startswith(_PNG):
        return _png(data, corpus, words, draw, inner)
    if data.startswith(_NPY):
        return _npy(data, corpus, words, draw, inner)
    if data.lstrip()[:1] in (b"{", b"["):
        return _json(data, draw)
    return None


def bundle(files: dict[str, bytes]) -> bytes:
    """Return several files as one input."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def unbundle(data: bytes) -> dict[str, bytes]:
    """Return the files of a bundle that can be read; no mutation of the bundle itself is of interest."""
    files = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                files[info.filename] = archive.read(info)
    # The damage that is looked for is in the files, not in what they were wrapped in.
    except Exception:
        return files
    return files


def _zip(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw, inner: Inner) -> bytes | None:
    members = list(unbundle(data).items())
    if not members:
        return None
    at = draw.below(len(members))
    name, content = members[at]
    match draw.below(16):
        case 0:
            members[at] = (draw.one_of((*_NAMES, *(other for other, _ in members))), content)
        case 1:
            members.insert(draw.below(len(members) + 1), members[at])
        case 2:
            del members[at]
        case 3:
            others = list(unbundle(draw.one_of(corpus)).items()) or members
            members[at] = (name, draw.one_of(others)[1])
        case 4:
            members[at] = (name, draw.one_of(members)[1])
        case 5:
            members.append((draw.one_of(_NAMES), content))
        case 6:
            return _lying_sizes(_packed(members, draw), draw)
        case 7 if content.startswith(_NPY):
            members[at] = (name, content + bytes(4 * _HUGE))
        case _:
            members[at] = (name, inner(content, [each for _, each in members], words, draw))
    return _packed(members, draw)


def _packed(members: Sequence[tuple[str, bytes]], draw: Draw) -> bytes:
    buffer = io.BytesIO()
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")  # of names that occur twice: that is the trick
        for name, content in members:
            info = zipfile.ZipInfo(name.replace("\x00", "\x01") or "x")
            info.compress_type = draw.one_of(kinds) if len(content) > _HUGE or draw.chance(0.1) else kinds[0]
            archive.writestr(info, content)
    return buffer.getvalue()


def _lying_sizes(data: bytes, draw: Draw) -> bytes:
    """Change a size, an offset, a method or a flag in the table of contents of a zip."""
    places = [at for at in range(len(data) - 46) if data[at : at + 4] == b"PK\x01\x02"]
    if not places:
        return data
    offset, size = draw.one_of(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (42, 4)))
    at = draw.one_of(places) + offset
    value = draw.one_of((0, 1, 8, 12, 14, 99, 2**16 - 1, 2**31 - 1, 2**32 - 1)) & (256**size - 1)
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def _npy(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw, inner: Inner) -> bytes | None:
    wide = data[6:7] != b"\x01"
    start = 12 if wide else 10
    if len(data) < start:
        return None
    length = int.from_bytes(data[8:start], "little")
    header, body = data[start : start + length], data[start + length :]
    match draw.below(8):
        case 0 | 1:
            body = inner(body, corpus, (), draw)
        case 2:
            return data[:6] + bytes([draw.below(5), draw.below(2)]) + data[8:]
        case _:
            header = inner(header, [header], _NPY_WORDS, draw)
    return b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + body


def _png(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw, inner: Inner) -> bytes | None:
    chunks, at = [], len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return None
    at = draw.below(len(chunks))
    kind, content = chunks[at]
    match draw.below(10):
        case 0:
            chunks.insert(draw.below(len(chunks) + 1), chunks[at])
        case 1:
            del chunks[at]
        case 2:
            chunks.insert(at, (draw.one_of(_PNG_CHUNKS), b""))
        case 3 | 4 if len(chunks[0][1]) == 13:
            side = struct.pack(">I", draw.one_of((0, 1, 3, 256, 9000, 30000, 2**31 - 1, 2**32 - 1)))
            place = draw.one_of((0, 4))
            head = chunks[0][1]
            chunks[0] = (chunks[0][0], head[:place] + side + head[place + 4 :])
        case 5 if kind == b"IDAT":
            chunks[at] = (kind, _recompressed(content, corpus, draw, inner))
        case 6:
            text = b"k\x00\x00" + zlib.compress(bytes(draw.one_of((10, 1000, 8 * _HUGE))))
            chunks.insert(1, (b"zTXt", text))
        case _:
            chunks[at] = (kind, inner(content, [each for _, each in chunks], words, draw))
    return _PNG + b"".join(_chunk(kind, content) for kind, content in chunks)


def _recompressed(content: bytes, corpus: Sequence[bytes], draw: Draw, inner: Inner) -> bytes:
    try:
        return zlib.compress(inner(zlib.decompress(content), corpus, (), draw))
    except zlib.error:
        return content


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _json(data: bytes, draw: Draw) -> bytes | None:
    try:
        tree = json.loads(data)
        return _json_changed(tree, draw) if isinstance(tree, dict | list) and tree else None
    # Too many brackets or digits; what made them is a mutation, and good enough.
    except (ValueError, RecursionError):
        return None


def _json_changed(tree: Any, draw: Draw) -> bytes:
    places = list(_places(tree))
    holder, key = draw.one_of(places)
    match draw.below(10):
        case 0:
            del holder[key]
        case 1:
            other, name = draw.one_of(places)
            holder[key] = json.loads(json.dumps(other[name]))
        case 2 if isinstance(holder, dict):
            holder[draw.one_of([str(value)[:200] for value in _VALUES])] = holder.pop(key)
        case 3 if isinstance(holder, list):
            holder.extend([holder[key]] * draw.one_of((1, 2, 300)))
        case 4:
            text = json.dumps(tree, ensure_ascii=draw.chance(0.5)).encode(errors="surrogatepass")
            deep = b"[" * (depth := draw.one_of((50, 900, 100_000))) + b"]" * depth
            mark = json.dumps(holder[key]).encode()
            return text.replace(mark, deep, 1)
        case 5:
            holder[key] = draw.one_of(_VALUES)
        case _:
            alike = [value for value in _VALUES if _kind(value) == _kind(holder[key])]
            holder[key] = draw.one_of(alike or _VALUES)
    return json.dumps(tree, ensure_ascii=draw.chance(0.5)).encode(errors="surrogatepass")


def _kind(value: Any) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every place in a tree as its holder and key; those far down are as likely as those on top."""
    places: list[tuple[Any, Any]] = []
    open_holders = [tree]
    while open_holders:
        holder = open_holders.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            places.append((holder, key))
            if isinstance(value, dict | list):
                open_holders.append(value)
    return places
