"""The sealed file: same inputs same bytes, and not one byte can change unnoticed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork import container
from graftwork.container import canonical_json, json_value, read_container, read_manifest, replacing, write_container
from graftwork.errors import ArtifactError

MANIFEST = {
    "kind": "learner",
    "model": {"id": "core/linear", "config": {"width": 8}},
    "metrics": {"accuracy": 0.1 + 0.2},
}
MEMBERS = {"weights.safetensors": bytes(range(256)) * 3, "arrays.safetensors": b"data!"}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_container(tmp_path / "good.graft", manifest=MANIFEST, members=MEMBERS)


def refusal(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_container(path)
    return str(caught.value)


def repacked(good: Path, path: Path, change) -> Path:
    """Pack the members anew with the zip tool at hand, after `change(archive, [(info, data)])` wrote what it liked."""
    with zipfile.ZipFile(good) as old:
        seal = old.comment
        parts = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        change(new, parts)
        new.comment = seal
    return path


# --- writing ---------------------------------------------------------------------------------------------------------


def test_what_goes_in_comes_out(good):
    found = read_container(good)
    assert {name: bytes(view) for name, view in found.members.items()} == MEMBERS
    assert found.manifest["metrics"] == MANIFEST["metrics"]
    assert found.manifest["format"] == 1
    assert found.manifest == read_manifest(good)
    listed = found.manifest["members"]["arrays.safetensors"]
    assert listed["sha256"] == hashlib.sha256(b"data!").hexdigest()
    assert listed["size"] == 5


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    config=json_values,
    members=st.dictionaries(
        st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True), st.binary(max_size=300), max_size=5
    ),
)
def test_any_manifest_and_members_survive(tmp_path_factory, config, members):
    path = tmp_path_factory.getbasetemp() / "any.graft"
    write_container(path, manifest={"config": config}, members=members)
    for copy in (False, True):
        found = read_container(path, copy=copy)
        assert found.manifest["config"] == config
        assert {name: bytes(view) for name, view in found.members.items()} == members
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", *sorted(members)]


def test_same_inputs_give_the_same_bytes_whatever_their_order(tmp_path, good):
    backwards = dict(reversed(MANIFEST.items()))
    other = write_container(tmp_path / "b.graft", manifest=backwards, members=dict(reversed(MEMBERS.items())))
    assert other.read_bytes() == good.read_bytes()


def test_format_1_is_what_it_was(tmp_path):
    """A change of these bytes is a new format: raise FORMAT, and keep reading the old one."""
    path = write_container(
        tmp_path / "m.graft", manifest={"kind": "golden", "ü": [1, 0.1]}, members={"a": b"1", "b": b""}
    )
    assert (
        hashlib.sha256(path.read_bytes()).hexdigest()
        == "1d483858d1106417ff066e17668ea9f77fe3938a1d2ffafbd96c7f606ced492c"
    )


def test_the_bytes_do_not_depend_on_the_process_or_the_clock(tmp_path, good):
    code = (
        "import sys; from graftwork.container import write_container as w;"
        f"w(sys.argv[1], manifest={MANIFEST!r}, members={MEMBERS!r})"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Pacific/Auckland"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b.graft")], check=True, env=env)
    assert (tmp_path / "b.graft").read_bytes() == good.read_bytes()


def test_data_of_members_lie_on_64_byte_borders(good):
    data = good.read_bytes()
    for member in MEMBERS.values():
        assert data.index(member) % 64 == 0


def test_any_zip_tool_can_read_it(good):
    with zipfile.ZipFile(good) as archive:
        assert archive.testzip() is None
        assert archive.read("weights.safetensors") == MEMBERS["weights.safetensors"]
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o100644}


def test_writing_to_a_member_does_not_reach_the_file(good):
    before = good.read_bytes()
    view = read_container(good).members["weights.safetensors"]
    view[:4] = b"\0\1\2\7"
    assert bytes(view[:4]) == b"\0\1\2\7"
    assert good.read_bytes() == before


def test_members_outlive_the_replacement_of_their_file(good):
    view = read_container(good).members["weights.safetensors"]
    write_container(good, manifest={}, members={"weights.safetensors": b"new"})
    assert bytes(view) == MEMBERS["weights.safetensors"]


def test_members_over_four_gigabytes_have_a_true_layout(tmp_path):
    big = 5 << 30
    entries = [
        container._Entry(name=n, size=s, crc32=0, sha256="0" * 64)
        for n, s in (("manifest.json", 2), ("w", big), ("z", 3))
    ]
    layout = container._layout(entries)
    path = tmp_path / "sparse.graft"
    with path.open("wb") as file:
        for at, part in layout.parts:
            file.seek(at)
            file.write(part)
    assert path.stat().st_size == layout.size
    with zipfile.ZipFile(path) as archive:
        assert [(i.filename, i.file_size) for i in archive.infolist()] == [("manifest.json", 2), ("w", big), ("z", 3)]
        assert archive.infolist()[2].header_offset == layout.parts[2][0] > big


# --- what a manifest may hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "place", "advice"),
    [
        (
            {"plan": {"steps": [{"fn": lambda x: x}]}},
            "manifest.plan.steps[0].fn is a function",
            "Register it in a plugin",
        ),
        ({"size": {1: 2}}, "manifest.size is a mapping with the key 1", "Give text"),
        ({"lr": float("nan")}, "manifest.lr is nan", "finite numbers"),
        ({"lr": [1.0, float("-inf")]}, "manifest.lr[1] is -inf", "finite numbers"),
        ({"path": Path("a")}, "manifest.path is a PosixPath (a)", "Give text"),
        ({"blob": b"x"}, "manifest.blob is a bytes", "Give text"),
        ({"model": dict}, "manifest.model is a type", "Register it"),
    ],
)
def test_what_is_not_json_is_refused_naming_its_place(tmp_path, value, place, advice):
    with pytest.raises(ArtifactError) as caught:
        write_container(tmp_path / "x.graft", manifest=value, members={})
    assert place in str(caught.value)
    assert advice in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_tuples_become_lists_and_nothing_else_changes():
    assert json_value({"a": (1, (2.5, None)), "b": [True, "é"]}) == {"a": [1, [2.5, None]], "b": [True, "é"]}


def test_a_manifest_that_holds_itself_or_broken_text_is_refused():
    loop: list = []
    loop.append(loop)
    with pytest.raises(ArtifactError, match="nested too deeply"):
        canonical_json({"loop": loop})
    with pytest.raises(ArtifactError, match="no Unicode"):
        canonical_json({"name": "bad \udcff"})


@pytest.mark.parametrize("name", ["manifest.json", "../x", "/etc/x", "a/b", "A", "", ".hidden", "x" * 101, "ü"])
def test_members_have_plain_names(tmp_path, name):
    with pytest.raises(ArtifactError, match="cannot name a member"):
        write_container(tmp_path / "x.graft", manifest={}, members={name: b""})


def test_a_manifest_too_large_to_be_read_again_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "MAX_MANIFEST", 1000)
    with pytest.raises(ArtifactError, match="too large"):
        write_container(tmp_path / "x.graft", manifest={"vocab": "x" * 1000}, members={})


# --- writing beside and renaming -------------------------------------------------------------------------------------


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(good):
    before = good.read_bytes()

    def interrupted() -> None:
        with replacing(good) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert good.read_bytes() == before
    assert list(good.parent.iterdir()) == [good]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(ArtifactError, match=r"cannot write .*x.graft: No space left"),
        replacing(tmp_path / "x.graft") as file,
    ):
        raise OSError(28, "No space left on device")
    assert file.closed
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"cannot write .*none/x.graft: No such file"):
        write_container(tmp_path / "none" / "x.graft", manifest={}, members={})


def test_the_data_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: told.append("flushed"))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: told.append("renamed") or replace(self, target))
    write_container(tmp_path / "x.graft", manifest={}, members={})
    assert told == ["flushed", "renamed", "flushed"]


def test_new_files_have_ordinary_permissions(good):
    plain = good.with_name("plain")
    plain.write_bytes(b"")
    assert good.stat().st_mode == plain.stat().st_mode


# --- refusals --------------------------------------------------------------------------------------------------------


def test_no_file_a_folder_and_a_pipe(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.graft")
    assert "is no file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize(
    "content", [b"", b"x", b"PK\3\4", bytes(5000), os.urandom(5000), pickle.dumps({"a": [1] * 500})]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.graft"
    path.write_bytes(content)
    assert "is refused" in refusal(path)


def test_a_pickle_inside_a_zip_is_named(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:  # the form of torch.save
        archive.writestr("archive/data.pkl", pickle.dumps([1] * 200))
    assert "holds a pickle ('archive/data.pkl')" in refusal(path)


def add(name: str, data: bytes = b"x"):
    def change(archive, parts):
        for part in parts:
            archive.writestr(*part)
        archive.writestr(name, data)

    return change


def without(name: str):
    def change(archive, parts):
        for part in parts:
            if part[0] != name:
                archive.writestr(*part)

    return change


def linked(archive, parts):
    for name, data in parts:
        info = zipfile.ZipInfo(name)
        info.external_attr = (0o120777 if name.startswith("weights") else 0o100644) << 16
        archive.writestr(info, data)


def compressed(archive, parts):
    for name, data in parts:
        archive.writestr(name, data, zipfile.ZIP_DEFLATED if name.startswith("weights") else zipfile.ZIP_STORED)


def bomb(archive, parts):
    for name, data in parts:
        big = bytes(200_000_000) if name == "manifest.json" else data
        archive.writestr(name, big, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (add("extra.bin"), "it has a member 'extra.bin' that its manifest does not list"),
        (add("data.pkl", pickle.dumps(1)), "it holds a pickle ('data.pkl')"),
        (add("../evil"), "its member '../evil' has a path that leads outside"),
        (add("/etc/evil"), "its member '/etc/evil' has a path that leads outside"),
        (add("c:\\evil"), "has a path that leads outside"),
        (without("weights.safetensors"), "its member 'weights.safetensors' is missing"),
        (without("manifest.json"), "it has no manifest.json"),
        (linked, "its member 'weights.safetensors' is a symbolic link"),
        (compressed, "its member 'weights.safetensors' is compressed"),
        (bomb, "its member 'manifest.json' is compressed"),
        (lambda archive, parts: [archive.writestr(*part) for part in parts], "another program packed it anew"),
    ],
)
def test_surgery_with_a_zip_tool_is_refused_saying_what_it_did(good, tmp_path, change, reason):
    path = repacked(good, tmp_path / "changed.graft", change)
    assert reason in refusal(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b""
    assert reason in refusal(path)


def test_a_member_twice_is_refused(good, tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = repacked(good, tmp_path / "twice.graft", add("weights.safetensors"))
    assert "its member 'weights.safetensors' occurs twice" in refusal(path)


def test_appending_to_the_file_itself_is_refused(good):
    with zipfile.ZipFile(good, "a") as archive:
        archive.writestr("extra.bin", b"x")
    assert "'extra.bin' that its manifest does not list" in refusal(good)


def test_an_encrypted_member_is_refused(good):
    data = bytearray(good.read_bytes())
    data[data.rindex(b"PK\1\2") + 8] |= 1
    good.write_bytes(data)
    assert "is encrypted" in refusal(good)


def forged(path: Path, manifest: object) -> Path:
    """Seal any bytes as a manifest, the way a forger would who has read this code."""
    head = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    layout = container._layout([container._entry("manifest.json", [head])])
    path.write_bytes(layout.parts[0][1] + head + layout.parts[1][1])
    return path


SHA = "0" * 64


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (b"not json", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"format": ' + b"9" * 10_000 + b"}", "is not JSON"),
        (b'{"format": 1, "members": {}, "lr": NaN}', "is not JSON (NaN is no JSON number)"),
        ([], "names no format"),
        ({"members": {}}, "names no format"),
        ({"format": True, "members": {}}, "names no format"),
        ({"format": 0, "members": {}}, "names no format"),
        ({"format": 1}, "lists no members"),
        ({"format": 1, "members": []}, "lists no members"),
        ({"format": 1, "members": {f"m{i}": {} for i in range(1001)}}, "or more than 1000"),
        ({"format": 1, "members": {"w": None}}, "lists member 'w' wrongly"),
        ({"format": 1, "members": {"w": {"size": 1, "crc32": 0}}}, "lists member 'w' wrongly"),
        ({"format": 1, "members": {"w": {"size": -1, "crc32": 0, "sha256": SHA}}}, "lists member 'w' wrongly"),
        ({"format": 1, "members": {"w": {"size": 1, "crc32": 1 << 40, "sha256": SHA}}}, "lists member 'w' wrongly"),
        ({"format": 1, "members": {"w": {"size": 1, "crc32": 0, "sha256": "z"}}}, "lists member 'w' wrongly"),
        ({"format": 1, "members": {"w": {"size": 1, "crc32": 0, "sha256": SHA, "b": 1}}}, "lists member 'w' wrongly"),
        ({"format": 1, "members": {"../w": {"size": 1, "crc32": 0, "sha256": SHA}}}, "lists member '../w' wrongly"),
        ({"format": 1, "members": {"w": {"size": 1 << 61, "crc32": 0, "sha256": SHA}}}, "member 'w' is missing"),
        ({"format": 1, "members": {"w": {"size": 1, "crc32": 0, "sha256": SHA}}}, "member 'w' is missing"),
    ],
)
def test_a_forged_manifest_is_refused(tmp_path, manifest, reason):
    assert reason in refusal(forged(tmp_path / "forged.graft", manifest))


def test_a_newer_format_says_which_version_reads_it(tmp_path):
    path = forged(
        tmp_path / "new.graft", {"format": 2, "graftwork": "9.1.0", "members": "whatever a later format says"}
    )
    text = refusal(path)
    assert "has format 2, written by graftwork 9.1.0" in text
    assert "pip install -U 'graftwork>=9.1.0'" in text
    assert "reads formats up to 1" in text
    with pytest.raises(ArtifactError, match="format 2"):
        read_manifest(path)
    nameless = forged(tmp_path / "newer.graft", {"format": 3})
    assert "pip install -U 'graftwork'" in refusal(nameless)


def test_a_manifest_larger_than_the_file_or_the_limit_is_not_read(good):
    data = bytearray(good.read_bytes())
    struct.pack_into("<2Q", data, 47, 1 << 50, 1 << 50)
    good.write_bytes(data)
    assert f"claims {1 << 50:,} bytes" in refusal(good)


def test_a_changed_manifest_is_told_from_a_changed_member(good):
    data = bytearray(good.read_bytes())
    data[data.index(b"learner")] ^= 1
    good.write_bytes(data)
    assert "its manifest is not the one that was sealed" in refusal(good)


def test_exchanged_members_are_refused(good, tmp_path):
    other = write_container(
        tmp_path / "other.graft", manifest=MANIFEST, members={**MEMBERS, "arrays.safetensors": b"date!"}
    )
    data = good.read_bytes()
    data = data[: data.rindex(b"data!")] + b"date!" + data[data.rindex(b"data!") + 5 :]
    good.write_bytes(data)
    assert "the bytes of member 'arrays.safetensors'" in refusal(good)
    assert len(other.read_bytes()) == len(data)


# --- fuzz ------------------------------------------------------------------------------------------------------------


def outcome(path: Path, data: bytes) -> str | None:
    """Return the refusal, or None when the mutated file was read; anything else that is raised fails the test."""
    path.write_bytes(data)
    try:
        read_container(path)
    except ArtifactError as error:
        return str(error)
    return None


def test_a_flipped_bit_in_any_byte_is_refused(good):
    data, rng = good.read_bytes(), random.Random(0)
    for i in range(len(data)):
        flipped = bytearray(data)
        flipped[i] ^= 1 << rng.randrange(8)
        reason = outcome(good, flipped)
        assert reason is not None, f"the flip of byte {i} went unnoticed"
        assert "refused" in reason


def test_every_truncation_and_every_single_insertion_is_refused(good):
    data = good.read_bytes()
    for i in range(len(data)):
        assert outcome(good, data[:i]), f"cut to {i} bytes"
        assert outcome(good, data[:i] + b"\0" + data[i:]), f"a byte added at {i}"
    assert outcome(good, data + b"\0")
    assert outcome(good, b"\0" + data)


def mutated(data: bytes, rng: random.Random) -> bytes:
    kind = rng.choice(["splice", "swap", "zero", "repeat", "noise", "pickle", "signature"])
    a, b = sorted(rng.choices(range(len(data)), k=2))
    c = rng.randrange(len(data))
    length = max(1, (b - a) // 8)
    match kind:
        case "splice":
            return data[:a] + data[b:]
        case "swap":
            return data[:a] + data[c : c + b - a] + data[b:]
        case "zero":
            return data[:a] + bytes(b - a) + data[b:]
        case "repeat":
            return data[:b] + data[a:b] * rng.randrange(1, 4) + data[b:]
        case "noise":
            return data[:a] + rng.randbytes(length) + data[a + length :]
        case "pickle":
            return data[:a] + pickle.dumps(print) + data[b:]
    return data[:a] + rng.choice([b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"\xff\xff\xff\xff"]) + data[a + 4 :]


def test_two_thousand_mutations_are_refused_or_change_nothing(good):
    data, rng = good.read_bytes(), random.Random(1)
    for _ in range(2000):
        changed = mutated(data, rng)
        assert (outcome(good, changed) is None) == (changed == data)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutations_found_by_hypothesis_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.graft"
    written = write_container(path, manifest=MANIFEST, members=MEMBERS).read_bytes()
    at = data.draw(st.integers(0, len(written)))
    drop = data.draw(st.integers(0, 40))
    changed = written[:at] + data.draw(st.binary(max_size=40)) + written[at + drop :]
    assert (outcome(path, changed) is None) == (changed == written)


@settings(max_examples=200, deadline=None)
@given(payload=json_values)
def test_any_sealed_json_is_read_or_refused(tmp_path_factory, payload):
    path = forged(tmp_path_factory.getbasetemp() / "forged.graft", {"format": 1, "members": payload})
    assert (outcome(path, path.read_bytes()) is None) == (payload == {})


def test_reading_needs_neither_torch_nor_numpy(good):
    code = (
        "import sys; from graftwork.container import read_container; read_container(sys.argv[1]);"
        "print([m for m in ('torch', 'numpy', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(good)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_zip_parser_is_only_asked_why(good, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a good file was parsed as a zip")

    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    assert read_container(good).manifest["kind"] == "learner"
    assert io.BytesIO(good.read_bytes()).read(4) == b"PK\3\4"


def test_a_file_is_right_wherever_its_checksums_put_its_members(tmp_path, monkeypatch):
    """Members are written before their checksums are known; fewer digits may move them."""
    written = []
    real = container._write_at
    monkeypatch.setattr(container, "_write_at", lambda *args: (written.append(len(args[1])), real(*args)))
    rewritten = 0
    for number in range(60):
        written.clear()
        members = {"a": b"%d" % number, "b": bytes(number), "c": b"c" * number}
        path = write_container(tmp_path / "m.graft", manifest={"pad": "x" * number}, members=members)
        rewritten += written.count(3) - 1
        assert {n: bytes(view) for n, view in read_container(path).members.items()} == members
    assert 0 < rewritten < 30


def test_large_members_are_hashed_beside_and_given_in_parts(tmp_path):
    parts = [bytes([n]) * (1_500_000 + n) for n in range(8)]
    one = write_container(tmp_path / "a.graft", manifest={}, members={"w": parts, "v": memoryview(parts[0])})
    two = write_container(tmp_path / "b.graft", manifest={}, members={"w": b"".join(parts), "v": parts[0]})
    assert one.read_bytes() == two.read_bytes()
    assert bytes(read_container(one).members["w"]) == b"".join(parts)
