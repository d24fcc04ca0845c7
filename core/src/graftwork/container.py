"""Keep JSON and raw bytes in one sealed file.

The file is a zip of stored members, so that any zip tool can look inside; but it is not read as a zip. Its layout is a
function of the manifest alone, and reading compares every byte that is not a member's data with the byte that belongs
there. The data are covered by the manifest's hashes, the manifest by the seal: the hash that stands in the archive's
comment, the last bytes of the file. So no byte can differ unnoticed, and nothing in the file can be misread.

For every later format this stays: `manifest.json` is the first member, stored, and the seal covers it.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import secrets
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from graftwork.errors import ArtifactError

__all__ = [
    "FORMAT",
    "Container",
    "Data",
    "NewerFormatError",
    "canonical_json",
    "json_value",
    "read_container",
    "read_manifest",
    "replacing",
    "write_container",
]

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
ALIGNMENT: Final = 64
MAX_MANIFEST: Final = 512 << 20
MAX_MEMBERS: Final = 1000
SEAL_PREFIX: Final = b"graftwork sha256:"
SEAL_SIZE: Final = len(SEAL_PREFIX) + 64

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR: Final = struct.Struct("<4sIQI")
_END: Final = struct.Struct("<4s4H2IH")
_FULL: Final = 0xFFFFFFFF
_VERSION: Final = 45
_MADE_BY: Final = 3 << 8 | _VERSION
_DAY_ONE: Final = 0x21  # 1980-01-01, the first day a zip can name
_ATTRIBUTES: Final = 0o100644 << 16
_PADDING_ID: Final = 0xD935  # the extra field by which zipalign pads
_HEAD_SIZE: Final = _LOCAL.size + len(MANIFEST) + 20
_Bytes: TypeAlias = mmap.mmap | bytearray
Data: TypeAlias = bytes | Sequence[bytes | memoryview]
"""A member's bytes, whole or in parts."""
WORTH_THREADS: Final = 8 << 20


class NewerFormatError(ArtifactError):
    """Refuse a file that is whole, and of a format that only a later version reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """Hold a verified file: its manifest, and its members as writable private memory.

    The views are pages of the file, mapped copy-on-write: writing to them never reaches the file.
    """

    manifest: dict[str, Any]
    members: dict[str, memoryview]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    name: str
    size: int
    crc32: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Say where the data of each member lie, and every byte that stands between them."""

    parts: list[tuple[int, bytes]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    size: int = 0


def write_container(path: str | Path, *, manifest: Mapping[str, Any], members: Mapping[str, Data]) -> Path:
    """Write the file beside its place and rename it there; same inputs give the same bytes.

    Members are written while they are hashed, where they belong if every checksum has as many digits as it may have.
    In the few files where fewer digits move a border of alignment they are written once more.

    Raises ArtifactError when the manifest is not JSON, a name is not plain, or the file cannot be written.
    """
    path = Path(path)
    _check_names(members)
    data = {name: _parts(members[name]) for name in sorted(members)}
    sizes = {name: sum(map(len, parts)) for name, parts in data.items()}
    _, guess = _described_by(
        path, manifest, [_Entry(name=n, size=s, crc32=_FULL, sha256="0" * 64) for n, s in sizes.items()]
    )
    large = sum(sizes.values()) >= WORTH_THREADS
    with replacing(path) as file, ThreadPoolExecutor(2, "graftwork-hash") as pool:
        # A thread costs more than hashing a small file does.
        hashed = _hashed(pool, data, sizes) if large else lambda: [_entry(n, p) for n, p in data.items()]
        _write_at(file, guess.starts[1:], data.values())
        if large:
            file.flush()
            os.fsync(file.fileno())  # the disk works while threads hash
        head, layout = _described_by(path, manifest, hashed())
        if layout.starts != guess.starts:
            _write_at(file, layout.starts[1:], data.values())
        _write_at(file, [at for at, _ in layout.parts], [[part] for _, part in layout.parts])
        _write_at(file, layout.starts[:1], [[head]])
        file.truncate(layout.size)
    return path


def _described_by(path: Path, manifest: Mapping[str, Any], entries: list[_Entry]) -> tuple[bytes, _Layout]:
    """Return the manifest's bytes, and what it makes of the file."""
    head = canonical_json({"format": FORMAT, **manifest, "members": {e.name: _described(e) for e in entries}})
    if len(head) > MAX_MANIFEST:
        raise ArtifactError(f"{path}: a manifest of {len(head):,} bytes is too large; large values belong into tensors")
    return head, _layout([_entry(MANIFEST, [head]), *entries])


def _write_at(file: BinaryIO, places: Sequence[int], data: Iterable[Sequence[bytes | memoryview]]) -> None:
    for at, parts in zip(places, data, strict=True):
        file.seek(at)
        file.writelines(parts)


def _parts(data: Data) -> Sequence[bytes | memoryview]:
    return [data] if isinstance(data, bytes | bytearray | memoryview) else data


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read what the file says of itself: the structure and the manifest are verified, the members' data are not."""
    path = Path(path)
    return _opened(path, _mapped(path))[0]


def read_container(path: str | Path, *, copy: bool = False) -> Container:
    """Verify every byte of the file, then hand out its manifest and members.

    The members stay mapped to the file, which must not be overwritten in place while they are used (graftwork itself
    only ever replaces files); `copy=True` reads them into memory instead.
    """
    path = Path(path)
    data = bytearray(_mapped(path)) if copy else _mapped(path)
    manifest, entries, layout = _opened(path, data)
    view = memoryview(data)
    members = {e.name: view[at : at + e.size] for e, at in zip(entries, layout.starts, strict=True)}
    for entry in entries:
        if hashlib.sha256(members[entry.name]).hexdigest() != entry.sha256:
            raise _refused(path, f"the bytes of member {entry.name!r} are not those that were written")
    del members[MANIFEST]
    return Container(manifest=manifest, members=members)


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """Write JSON in the one way that the same value always has.

    Raises ArtifactError, naming the place, for what JSON cannot say: functions, arrays, NaN, keys that are not text.
    """
    try:
        text = json.dumps(json_value(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return (text + "\n").encode()
    except RecursionError:
        raise ArtifactError("the manifest is nested too deeply, or holds itself") from None
    except UnicodeEncodeError as error:
        raise ArtifactError(
            f"the manifest holds text that is no Unicode: {error.object[error.start - 20 :]!r}"
        ) from error


def json_value(value: Any, *, at: str = "manifest") -> Any:
    """Return the value made of dicts, lists, text, finite numbers, booleans and None, or raise naming the place."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {key: json_value(item, at=f"{at}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item, at=f"{at}[{i}]") for i, item in enumerate(value)]
    raise ArtifactError(f"{at} is {_named(value)}; a file holds only JSON. {_advice(value)}")


def _named(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with the key {next(k for k in value if type(k) is not str)!r}"
    return repr(value) if isinstance(value, float) else f"a {type(value).__qualname__} ({str(value)[:80]})"


def _advice(value: object) -> str:
    if callable(value):
        return "Register it in a plugin (a transform, a loss, a getter) and refer to it by its id"
    return "Give text, finite numbers, booleans, None, and lists or dicts of them"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` that takes its place, whole and flushed to disk, when the block ends without error."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}; nothing was changed there") from error
    finally:
        with suppress(OSError):
            beside.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # a folder cannot be opened on Windows, nor flushed on some network drives
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --- layout ----------------------------------------------------------------------------------------------------------


def _check_names(members: Iterable[str]) -> None:
    for name in members:
        if name == MANIFEST or not _NAME.fullmatch(name):
            raise ArtifactError(f"{name!r} cannot name a member: use a-z, 0-9, '.', '_' and '-', at most 100 of them")


def _entry(name: str, parts: Sequence[bytes | memoryview]) -> _Entry:
    return _Entry(name=name, size=sum(map(len, parts)), crc32=_crc32(parts), sha256=_sha256(parts))


def _sha256(parts: Sequence[bytes | memoryview]) -> str:
    seen = hashlib.sha256()
    for part in parts:
        seen.update(part)
    return seen.hexdigest()


def _crc32(parts: Sequence[bytes | memoryview]) -> int:
    seen = 0
    for part in parts:
        seen = zlib.crc32(part, seen)
    return seen


def _hashed(
    pool: ThreadPoolExecutor, data: Mapping[str, Sequence[bytes | memoryview]], sizes: Mapping[str, int]
) -> Callable[[], list[_Entry]]:
    """Begin to hash members in threads, the longest jobs first; return how to wait for them."""
    longest = sorted(data, key=lambda name: -sizes[name])
    sha = {name: pool.submit(_sha256, data[name]) for name in longest}
    crc = {name: pool.submit(_crc32, data[name]) for name in longest}
    return lambda: [_Entry(name=n, size=sizes[n], crc32=crc[n].result(), sha256=sha[n].result()) for n in data]


def _described(entry: _Entry) -> dict[str, Any]:
    return {"size": entry.size, "sha256": entry.sha256, "crc32": entry.crc32}


def _layout(entries: list[_Entry]) -> _Layout:
    """Lay the members out one after the other; the first is the manifest, whose hash becomes the seal."""
    parts: list[tuple[int, bytes]] = []
    starts: list[int] = []
    central, position = b"", 0
    for entry in entries:
        header = _local_header(entry, position)
        parts.append((position, header))
        central += _central_header(entry, position)
        starts.append(position + len(header))
        position = starts[-1] + entry.size
    tail = central + _end(len(entries), len(central), position) + SEAL_PREFIX + entries[0].sha256.encode()
    parts.append((position, tail))
    return _Layout(parts=parts, starts=starts, size=position + len(tail))


def _local_header(entry: _Entry, position: int) -> bytes:
    name = entry.name.encode()
    # Sizes always stand in the 64-bit field: one layout for small and large members.
    extra = struct.pack("<2H2Q", 1, 16, entry.size, entry.size)
    padding = -(position + _LOCAL.size + len(name) + len(extra) + 6) % ALIGNMENT
    extra += struct.pack("<3H", _PADDING_ID, 2 + padding, ALIGNMENT) + bytes(padding)
    fields = (b"PK\3\4", _VERSION, 0, 0, 0, _DAY_ONE, entry.crc32, _FULL, _FULL, len(name), len(extra))
    return _LOCAL.pack(*fields) + name + extra


def _central_header(entry: _Entry, position: int) -> bytes:
    name = entry.name.encode()
    extra = struct.pack("<2H3Q", 1, 24, entry.size, entry.size, position)
    sizes = (entry.crc32, _FULL, _FULL, len(name), len(extra), 0, 0, 0, _ATTRIBUTES, _FULL)
    return _CENTRAL.pack(b"PK\1\2", _MADE_BY, _VERSION, 0, 0, 0, _DAY_ONE, *sizes) + name + extra


def _end(count: int, size: int, start: int) -> bytes:
    end64 = _END64.pack(b"PK\6\6", _END64.size - 12, _MADE_BY, _VERSION, 0, 0, count, count, size, start)
    locator = _LOCATOR.pack(b"PK\6\7", 0, start + size, 1)
    return end64 + locator + _END.pack(b"PK\5\6", 0, 0, count, count, _FULL, _FULL, SEAL_SIZE)


# --- reading ---------------------------------------------------------------------------------------------------------


def _mapped(path: Path) -> mmap.mmap:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise ArtifactError(f"{path} is no file; give a file such as RUN/model.graft")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < _HEAD_SIZE + _END.size + SEAL_SIZE:
                raise _refused(path, "it is too short to be a graftwork file")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except FileNotFoundError:
        raise ArtifactError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {path}: {error}") from error


def _opened(path: Path, data: _Bytes) -> tuple[dict[str, Any], list[_Entry], _Layout]:
    head = _sealed(path, data)
    manifest = _parsed(path, head)
    members = manifest.get("members")
    if not isinstance(members, dict) or len(members) > MAX_MEMBERS:
        raise _refused(path, f"its manifest lists no members, or more than {MAX_MEMBERS}")
    entries = [_entry(MANIFEST, [head]), *(_listed(path, name, members[name]) for name in sorted(members))]
    layout = _layout(entries) if sum(e.size for e in entries) < len(data) else _Layout()
    if layout.size != len(data) or any(data[at : at + len(part)] != part for at, part in layout.parts):
        raise _refused(path, _difference(path, {e.name for e in entries}))
    return manifest, entries, layout


def _sealed(path: Path, data: _Bytes) -> bytes:
    """Return the manifest's bytes when they are the ones that the seal names."""
    (size,) = struct.unpack_from("<Q", data, _HEAD_SIZE - 16)
    header = _local_header(_Entry(name=MANIFEST, size=size, crc32=0, sha256=""), 0)
    seal, crc = data[-SEAL_SIZE:], slice(14, 18)  # the header's checksum is not known yet
    same = data[: crc.start] == header[: crc.start] and data[crc.stop : len(header)] == header[crc.stop :]
    if not same or seal[: len(SEAL_PREFIX)] != SEAL_PREFIX:
        raise _refused(path, _difference(path))
    if size > min(MAX_MANIFEST, len(data)):
        raise _refused(path, f"its manifest claims {size:,} bytes")
    head = bytes(data[len(header) : len(header) + size])
    if SEAL_PREFIX + hashlib.sha256(head).hexdigest().encode() != seal:
        raise _refused(path, "its manifest is not the one that was sealed")
    return head


def _parsed(path: Path, head: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(head, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"its manifest is not JSON ({error})") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if type(found) is not int or found < 1:
        raise _refused(path, "its manifest names no format")
    if found > FORMAT:
        raise _too_new(path, found, str(manifest.get("graftwork", "")))
    return dict(manifest)


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _too_new(path: Path, found: int, writer: str) -> NewerFormatError:
    from importlib.metadata import version

    wanted = f"graftwork>={writer}" if writer else "graftwork"
    return NewerFormatError(
        f"{path} has format {found}, written by graftwork {writer or 'of a later version'}; this is graftwork "
        f"{version('graftwork')}, which reads formats up to {FORMAT}: pip install -U '{wanted}'"
    )


def _listed(path: Path, name: str, info: object) -> _Entry:
    match info:
        case {"size": int(size), "crc32": int(crc32), "sha256": str(sha256), **rest} if not rest:
            plain_name = _NAME.fullmatch(name) and name != MANIFEST and _HASH.fullmatch(sha256)
            if plain_name and 0 <= size < 1 << 62 and 0 <= crc32 <= _FULL:
                return _Entry(name=name, size=size, crc32=crc32, sha256=sha256)
    raise _refused(path, f"its manifest lists member {name!r} wrongly")


def _refused(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is refused: {why}; nothing in it was run. Copy it again from its source, or export it again"
    )


def _difference(path: Path, expected: set[str] | None = None) -> str:
    """Say what is wrong with a file that has not the layout of its manifest; nothing is unpacked for it."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            reason = next(filter(None, map(_fault, infos)), None)
            expected = expected if expected or reason else _claimed(archive)
    except (zipfile.BadZipFile, struct.error, ValueError, OverflowError, NotImplementedError, OSError, EOFError):
        return "it is no graftwork file, or it was cut short or damaged"
    reason = reason or _miscounted([info.filename for info in infos], expected)
    return reason or "bytes between its members were changed, or another program packed it anew"


def _claimed(archive: zipfile.ZipFile) -> set[str] | None:
    """Read the members' names off the manifest of a file whose seal is lost."""
    try:
        return {MANIFEST, *json.loads(archive.read(MANIFEST))["members"]}
    except (KeyError, TypeError, RecursionError):
        return None


def _fault(info: zipfile.ZipInfo) -> str | None:
    name = info.filename
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name:
        return f"its member {name!r} has a path that leads outside"
    if info.external_attr >> 28 == 0o12:
        return f"its member {name!r} is a symbolic link"
    if info.flag_bits & 1:
        return f"its member {name!r} is encrypted"
    if info.compress_type != zipfile.ZIP_STORED:
        return f"its member {name!r} is compressed, and ours are stored"
    return None


def _miscounted(found: list[str], expected: set[str] | None) -> str | None:
    pickles = [name for name in found if name.endswith((".pkl", ".pickle"))]
    if pickles:
        return f"it holds a pickle ({pickles[0]!r}), and graftwork reads none"
    if len(set(found)) < len(found):
        return f"its member {max(found, key=found.count)!r} occurs twice"
    if MANIFEST not in found:
        return f"it has no {MANIFEST}"
    if expected is None:
        return None
    extra, missing = sorted(set(found) - expected), sorted(expected - set(found))
    if missing:
        return f"its member {missing[0]!r} is missing"
    return f"it has a member {extra[0]!r} that its manifest does not list" if extra else None
