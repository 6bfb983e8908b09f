"""Weights come out of every container as they went in; damage is named and nothing is ever executed."""

import functools
import io
import json
import pickle
import pickletools
import random
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.models.published import openai_clip, write_archive

from diptych.core.errors import DiptychError, IntegrityError, UsageError
from diptych.evaluate.tasks.readers.arrays import read_batch
from diptych.models.formats.torchscript_pickle import RefusedError, interpret
from diptych.models.formats.weights import read_weights

State = dict[str, torch.Tensor]


def state() -> State:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(3, 4, generator=generator),
        "b": torch.randn(700, generator=generator).half(),
        "n": torch.tensor(7),
    }


def sharded(path: Path) -> Path:
    names = list(state())
    for number, name in enumerate(names):
        save_file({name: state()[name]}, path.with_name(f"part-{number}.safetensors"))
    index = path.with_name("model.safetensors.index.json")
    listed = {name: f"part-{number}.safetensors" for number, name in enumerate(names)}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": listed}))
    return index


def training(path: Path) -> Path:
    named = {f"module._orig_mod.{name}": tensor for name, tensor in state().items()}
    parameter = torch.nn.Parameter(torch.zeros(9))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(9)
    optimizer.step()
    torch.save({"epoch": 3, "state_dict": named, "optimizer": optimizer.state_dict()}, path)
    return path


def legacy(path: Path) -> Path:
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    return path


@functools.cache
def archive_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_archive(Path(folder) / "made.pt", openai_clip())
        return (Path(folder) / "made.pt").read_bytes()


def archive(path: Path) -> Path:
    path.write_bytes(archive_bytes())
    return path


KINDS: dict[str, Callable[[Path], Path]] = {"sharded": sharded, "legacy": legacy, "training": training}


@pytest.mark.parametrize("kind", KINDS)
def test_every_container_gives_the_same_tensors(kind: str, tmp_path: Path) -> None:
    actual = read_weights(KINDS[kind](tmp_path / "any.name"))
    assert actual.tensors.keys() == state().keys()
    for name, tensor in state().items():
        assert torch.equal(actual.tensors[name], tensor) and actual.tensors[name].dtype == tensor.dtype
    assert all(path.is_file() for path in actual.files)


def test_an_archive_gives_what_torch_would_read_and_the_names_of_its_modules(tmp_path: Path) -> None:
    actual = read_weights(archive(tmp_path / "ViT.pt"))
    expected = torch.jit.load(str(tmp_path / "ViT.pt")).state_dict()
    assert actual.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual.tensors[name], tensor) and actual.tensors[name].dtype == tensor.dtype, name
    assert actual.tensors["visual.proj"].dtype == torch.float16
    assert actual.tensors["ln_final.weight"].dtype == torch.float32
    assert actual.modules["transformer.resblocks.1.mlp.gelu"] == "QuickGELU"


@pytest.mark.parametrize("make", [training, archive])
def test_a_flipped_bit_in_a_zip_is_found_or_changes_nothing(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = make(tmp_path / "weights.pt")
    whole, chance = path.read_bytes(), random.Random(0)
    expected, actual = read_weights(path).tensors, 0
    for place in sorted(chance.sample(range(len(whole)), 12)):
        data = bytearray(whole)
        data[place] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            tensors = read_weights(path).tensors
        except IntegrityError as error:
            assert path.name in str(error)
            actual += 1
        else:
            assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    assert actual >= 4


def test_files_that_hold_no_state_dictionary_are_refused(tmp_path: Path) -> None:
    for number, saved in enumerate(([1, 2], {"a": 1}, {"state_dict": {"a": "b"}}, {})):
        path = tmp_path / f"{number}.pt"
        torch.save(saved, path)
        with pytest.raises(IntegrityError, match=path.name):
            read_weights(path)
    with pytest.raises(UsageError, match="no such weights file"):
        read_weights(tmp_path / "missing.pt")


# --- payloads -------------------------------------------------------------------------------------


def payload(canary: Path) -> bytes:
    """Return instructions that call os.mkdir and leave the stack as it was."""
    text = str(canary).encode()
    return b"cos\nmkdir\nX" + len(text).to_bytes(4, "little") + text + b"\x85R0"


def replace_member(source: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Copy a zip with some members changed, checksums fitting."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def test_a_payload_in_an_archive_is_refused_by_name_and_not_executed(tmp_path: Path) -> None:
    canary, source = tmp_path / "canary", archive(tmp_path / "good.pt")
    for number, place in enumerate((0, 40, -1)):

        def spoil(name: str, data: bytes, place: int = place) -> bytes:
            if not name.endswith("/data.pkl"):
                return data
            places = [position for _, _, position in pickletools.genops(data)][1:]
            cut = places[place]
            assert cut is not None
            return data[:cut] + payload(canary) + data[cut:]

        path = replace_member(source, tmp_path / f"{number}.pt", spoil)
        with pytest.raises(IntegrityError, match=r"os\.mkdir") as error:
            read_weights(path)
        assert path.name in str(error.value) and "to do: " in str(error.value)
    # The other pickles and the code of an archive are never read at all.
    spoilt = b"\x80\x02" + payload(canary) + b")."
    path = replace_member(
        source,
        tmp_path / "elsewhere.pt",
        lambda name, data: spoilt if name.endswith(("constants.pkl", "traced_inputs.pkl", ".py")) else data,
    )
    assert read_weights(path).tensors.keys() == read_weights(source).tensors.keys()
    assert not canary.exists()


@functools.cache
def archive_pickle() -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive_bytes())) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith("/data.pkl")]
        return opened.read(name)


def test_a_payload_at_any_position_of_the_pickle_is_refused(tmp_path: Path) -> None:
    canary, data = tmp_path / "canary", archive_pickle()
    pickle.loads(b"\x80\x02" + payload(tmp_path / "it works") + b"N.")
    assert (tmp_path / "it works").is_dir()
    places = [place for _, _, place in pickletools.genops(data) if place]
    assert len(places) > 500
    for place in places[::7]:
        with pytest.raises(RefusedError, match=r"os\.mkdir"):
            interpret(data[:place] + payload(canary) + data[place:])
    assert not canary.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93.",  # STACK_GLOBAL
        b"(S'x'\nios\nmkdir\n.",  # INST
        b"(cos\nmkdir\nS'x'\no.",  # OBJ
        b"\x82\x01.",  # EXT1
        b"c__torch__\nA\n)\x81c__torch__\nA\n)\x81b.",  # BUILD with an object
        b"ctorch._utils\n_rebuild_tensor_v2\n)\x81.",  # NEWOBJ of a function
        b"ctorch._utils\n_rebuild_tensor_v2\n}b.",  # BUILD of a function
        b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR.",  # a tensor of nothing
        b"c__torch__\nA\n)R.",  # calling a class
        b"ctorch\nFloatStorage\n)R.",  # calling a storage
        b"Nr\xff\xff\xff\x7f.", b"N", b"", b".", b"0.", b"h\x05.", b"t.",
    ],
)  # fmt: skip
def test_other_instructions_are_refused(code: bytes) -> None:
    with pytest.raises(RefusedError):
        interpret(code)


def test_mutated_pickles_are_refused_or_read_but_never_fail_otherwise() -> None:
    data, chance, refused = archive_pickle(), random.Random(0), 0
    for _ in range(300):
        mutated = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        try:
            interpret(bytes(mutated))
        except RefusedError:
            refused += 1
    assert refused > 100


ENDLESS = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 60
"""A pair of a pair of a pair: 2^60 elements in 300 bytes, of which the last pair stays on the stack."""


@pytest.mark.parametrize(
    "code",
    [
        b")R",  # called
        b")\x81",  # constructed
        b"q\x01(X\x07\0\0\0storageh\x01X\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ",  # a storage's type
        b"}b",  # given a state
        b"q\x01}h\x01K\x01s",  # a key
        b"K\x01a",  # appended to
        b"",  # the whole
    ],
)
def test_a_value_without_end_is_named_by_its_type(code: bytes, tmp_path: Path) -> None:
    """Written out, it would take longer than anybody lives: this test would not end."""
    try:
        value = interpret(ENDLESS + code + b".")
    except RefusedError as error:
        assert len(str(error)) < 200
    else:
        assert code == b"" and isinstance(value, tuple)
    (tmp_path / "data_batch_1").write_bytes(ENDLESS + code + b".")
    with pytest.raises(IntegrityError) as refused:
        read_batch(tmp_path / "data_batch_1")
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("zipped", [True, False])
def test_a_key_of_pairs_without_end_is_refused_before_torch_reads_it(zipped: bool, tmp_path: Path) -> None:
    """Its hash takes twice the time for each level: with 60 of them this test would not end."""
    key = b"K\x01q\x00" + b"".join(b"h%ch%c\x86q%c0" % (n, n, n + 1) for n in range(60))
    code = b"\x80\x02" + key + b"}h<K\x01s."
    path = tmp_path / "weights.pt"
    if zipped:
        with zipfile.ZipFile(path, "w") as made:
            made.writestr("a/data.pkl", code)
            made.writestr("a/version", b"3")
    else:
        path.write_bytes(b"\x80\x02K\x01.\x80\x02K\x02.\x80\x02}." + code)
    with pytest.raises(IntegrityError, match="inside each other"):
        read_weights(path)


def test_an_archive_cannot_claim_memory_or_time(tmp_path: Path) -> None:
    header = b"\x80\x02c__torch__\nA\n)\x81"
    loop = header + b"q\x00}X\x01\x00\x00\x00ah\x00sb."  # a module that is its own child
    wide = header + b"q\x00}(" + b"".join(
        b"X\x02\x00\x00\x00" + str(n).encode() + b"h\x00" for n in range(10, 40)
    ) + b"ub."  # thirty of them: 30 ** 32 names  # fmt: skip
    huge = (
        header + b"}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(("
        b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        b"\x8a\x06\x00\x00\x00\x00\x00\x10tQK\x00K\x01\x85K\x01\x85\x89Nt\x52sb."
    )
    for number, code in enumerate((loop, wide, huge)):
        path = tmp_path / f"{number}.pt"
        with zipfile.ZipFile(path, "w") as made:
            made.writestr("a/constants.pkl", b"")
            made.writestr("a/data.pkl", code)
            made.writestr("a/data/0", b"1234")
        with pytest.raises(IntegrityError, match=path.name):
            read_weights(path)
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a/constants.pkl", b"")
        made.writestr("a/data.pkl", b"N" * 10**8)
    with pytest.raises(IntegrityError, match=r"bomb\.pt"):
        read_weights(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("/data/3", lambda data: data[:-2]),
        ("/data.pkl", lambda data: b""),
        (".pkl", lambda data: data.replace(b"weight", b"we\xffght")),
    ],
)
def test_errors_of_damaged_archives_are_ours(
    name: str, change: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = replace_member(
        archive(tmp_path / "good.pt"),
        tmp_path / "changed.pt",
        lambda member, data: change(data) if member.endswith(name) else data,
    )
    with pytest.raises(DiptychError, match=r"changed\.pt"):
        read_weights(path)
