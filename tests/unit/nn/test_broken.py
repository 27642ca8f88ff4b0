"""What is wrong with a weights file, in our own words."""

import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from finefold.errors import WeightsError
from finefold.nn.broken import in_words
from finefold.nn.weights import read_state


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Whole files of all formats, as bytes."""
    folder = tmp_path_factory.mktemp("whole")
    state = {"w": torch.arange(1000.0)}
    torch.save(state, folder / "new.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "safe.safetensors")
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def message(path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    assert caught.value.hint
    return caught.value.message.removeprefix(f"{path} ")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("junk.pth", b"hello", "is no weights file: it begins with `hello`"),
        ("junk.safetensors", b"hello, this is text", "is no weights file: it begins with `hello, this is t`"),
        ("code.pt", b"import torch\n", r"is no weights file: it begins with `import torch\n`"),
        ("odd.pth", b"\x1b[31mred", r"is no weights file: it begins with `\x1b[31mred`"),
        ("empty.pth", b"", "is broken: it is empty"),
        ("short.safetensors", b"abc", "is broken: truncated: it has 3 bytes"),
        ("pickle.pth", pickle.dumps({"a": 1}, protocol=2), "is broken: its content is not what torch.save writes"),
    ],
)
def test_what_is_no_weights_file_is_told_as_what_it_is(name, content, told, tmp_path):
    """Text, code and nothing at all are told by what they begin with, never by a number or another library's advice."""
    (tmp_path / name).write_bytes(content)
    said = message(tmp_path / name)
    assert said.startswith(told)
    assert "weights_only" not in said
    assert "miniz" not in said


@pytest.mark.parametrize(
    ("name", "share", "told"),
    [
        ("new.pth", 0.5, "is broken: truncated: 2,7"),
        ("old.pth", 0.9, "is broken: truncated: it ends in the middle"),
        ("safe.safetensors", 0.5, "is broken: truncated: it has 2,0"),
        ("safe.safetensors", 0.01, "is broken: truncated: it has 40 bytes, and its header has "),
    ],
)
def test_a_file_cut_off_is_told_as_truncated(name, share, told, whole, tmp_path):
    """Half a file says that it is half a file, and how much of it is there where that is known."""
    (tmp_path / name).write_bytes(whole[name][: int(share * len(whole[name]))])
    assert message(tmp_path / name).startswith(told)


def test_files_under_another_ones_name_are_told(whole, tmp_path):
    """safetensors called .pth, .pth called safetensors, and an archive of something else say so."""
    (tmp_path / "a.pth").write_bytes(whole["safe.safetensors"])
    (tmp_path / "b.safetensors").write_bytes(whole["new.pth"])
    (tmp_path / "c.pth").write_bytes(whole["photos.zip"])
    assert message(tmp_path / "a.pth") == "is a safetensors file"
    assert message(tmp_path / "b.safetensors") == "is no safetensors file but an archive of torch.save"
    assert message(tmp_path / "c.pth").startswith("is no weights file: an archive without the `data.pkl`")


def test_damage_in_the_middle_is_told(whole, tmp_path):
    """An archive whose content is overwritten is damaged, in one short whole sentence."""
    content = bytearray(whole["new.pth"])
    content[60:90] = bytes(30)
    (tmp_path / "w.pth").write_bytes(bytes(content))
    said = message(tmp_path / "w.pth")
    assert "miniz" not in said
    assert len(said) < 100


def test_another_librarys_reason_is_whole_sentences():
    """What is taken over is never cut in the middle, and is no advice to run the file's code."""
    assert in_words(ValueError("It is late. Do it again.\nmore")) == "It is late. Do it again"
    advice = "Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` will likely succeed."
    assert in_words(RuntimeError(advice)) == "its content is not what torch.save writes"
    assert in_words(ValueError("long " * 100)) == "its content is not what torch.save writes"
