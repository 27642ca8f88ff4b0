"""What a data set object keeps in its attributes."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import torch
from torch.utils.data import ConcatDataset, Subset

from finefold.doctor.lists import find_lists, label_text

PATHS = [f"a/{number}.jpg" for number in range(6)]


class Holder:
    """An object with these attributes, and a length that nobody asks for."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        return index


def test_paths_and_labels_of_plain_lists():
    """A list of paths for the rows, a longer list of labels."""
    found = find_lists(Holder(files=PATHS[:4], y=[0, 1, 0, 1, 1, 1]), 4, ["0", "1", "0", "1"])
    assert found.paths == tuple(PATHS[:4]) and not found.every_path
    assert found.labels == {"y": ("0", "1", "0", "1", "1", "1")}


def test_pairs_tables_and_arrays_are_read():
    """ImageFolder's samples, a table's columns, arrays and tensors are lists too."""
    assert find_lists(Holder(samples=[(path, 1) for path in PATHS]), 6, ["1"] * 6).paths == tuple(PATHS)
    frame = pl.DataFrame({"path": PATHS, "label": list("ababab")})
    found = find_lists(Holder(df=frame), 6, list("ababab"))
    assert found.paths == tuple(PATHS) and found.labels == {"df['label']": tuple("ababab")}
    for labels in (np.array([0, 1] * 3), torch.tensor([0, 1] * 3)):
        assert find_lists(Holder(targets=labels), 6, ["0", "1"]).labels == {"targets": ("0", "1") * 3}


def test_a_subset_leads_to_what_it_wraps():
    """The rows' paths are the wrapped data set's at the subset's indices."""
    found = find_lists(Subset(Holder(paths=PATHS), [4, 0, 5]), 3, ["x"])
    assert found.paths == ("a/4.jpg", "a/0.jpg", "a/5.jpg") and found.every_path == tuple(PATHS)
    assert found.indices == {"indices": (4, 0, 5)}


def test_nothing_is_called_or_followed_for_ever():
    """Properties are not run; an object that wraps itself ends; other attributes are passed over."""
    strange = Holder(name="x", rng=np.random.default_rng(0), table=np.zeros((3, 3)), other=SimpleNamespace(paths=PATHS))
    strange.dataset = strange
    assert find_lists(strange, 6, ["0"]).paths == ()


def test_labels_are_the_same_text_however_they_are_kept():
    """3, np.int64(3), 3.0 and a tensor of it are one label; True is 1."""
    assert {label_text(value) for value in (3, np.int64(3), 3.0, np.float32(3), torch.tensor(3), "3")} == {"3"}
    assert label_text(True) == "1" and label_text("cat") == "cat" and label_text(0.5) == "0.5"


def test_records_are_read_by_key():
    """A list of dicts, as a JSON file gives it, is a column for each key."""
    records = [{"file": path, "y": row % 2, "boxes": []} for row, path in enumerate(PATHS)]
    found = find_lists(Holder(items=records), 6, ["0", "1"] * 3)
    assert found.paths == tuple(PATHS) and found.labels == {"items[:, 'y']": ("0", "1") * 3}


def test_whatever_wraps_is_followed():
    """A subset of a subset, under any attribute's name: positions of positions lead to the paths."""
    inner = Subset(Subset(Holder(paths=PATHS), [5, 4, 3, 2]), [3, 0])
    assert find_lists(Holder(wrapped_up=inner), 2, ["x"]).paths == ("a/2.jpg", "a/5.jpg")


def test_data_sets_in_a_row_have_their_paths_in_a_row():
    """ConcatDataset keeps several, one after the other."""
    joined = ConcatDataset([Holder(paths=PATHS), Subset(Holder(paths=PATHS), [1, 0])])
    found = find_lists(joined, 8, ["x"])
    assert (*PATHS, "a/1.jpg", "a/0.jpg") in (found.paths, *found.others)


def test_the_beginning_of_a_longer_list_may_be_the_rows():
    """Fewer labels than paths: the rows may be the first of them, which pictures must confirm."""
    found = find_lists(Holder(paths=PATHS, labels=[0, 1, 0]), 3, ["0", "1", "0"])
    assert found.paths == () and found.beginnings == (tuple(PATHS[:3]),) and found.every_path == tuple(PATHS)


def test_names_of_numbers_are_labels_too():
    """A list of names, one for each number that the rows give, is a list of labels; any other text is not."""
    names = ["cat", "dog", "cat", "dog", "cat", "eel"]
    labels = ["0", "1", "0", "1", "0", "2"]
    assert find_lists(Holder(species=names), 6, labels).labels == {"species": tuple(names)}
    assert find_lists(Holder(species=names[::-1]), 6, ["0", "1", "0", "0", "1", "2"]).labels == {}


class Arrow:
    """As pyarrow's table looks: `columns` are arrays, names are elsewhere, and values must be asked for by name."""

    column_names = ("image", "label")
    columns = (object(), object())
    schema = SimpleNamespace(field=lambda name: SimpleNamespace(type="struct<bytes>" if name == "image" else "int64"))

    def __getitem__(self, key: object) -> object:
        raise TypeError(key)

    def column(self, name: str) -> SimpleNamespace:
        assert name == "label", "images are not read"
        return SimpleNamespace(to_pylist=lambda: [0, 1, 0, 1, 0, 1])


def test_an_arrow_table_is_read_by_its_plain_columns():
    """Labels of a table of images and labels, without the images; a table that fails is passed over."""
    assert find_lists(Holder(_data=Arrow()), 6, ["0", "1"]).labels == {"_data['label']": ("0", "1") * 3}
    broken = SimpleNamespace(columns=["a"], __getitem__=None)
    assert find_lists(Holder(table=broken, y=[0] * 6), 6, ["0"]).labels == {"y": ("0",) * 6}
