"""Other ways in which labels may belong to images."""

import numpy as np

from finefold.doctor.pairings import Pairing, by_orders, folders_of, of_whole_folder, orders_of, shifted


def test_a_pairing_gives_the_labels_that_it_says():
    """Each row takes the label at its source; -1 and what lies outside have none."""
    labels = np.array([3, 1, 4])
    assert Pairing("x", np.array([2, -1, 0, 7]), "shift").labels(labels).tolist() == [4, -1, 3, -1]


def test_shifts_are_named_by_how_the_labels_move():
    """A row that takes the next row's label: labels move up by one; cyclic, or with the end cut off."""
    assert shifted(4, 1, cyclic=True).source_N.tolist() == [1, 2, 3, 0]
    assert shifted(4, 1, cyclic=False).source_N.tolist() == [1, 2, 3, -1]
    assert "-1 rows" in shifted(4, 1, cyclic=False).name and "+2 rows" in shifted(4, -2, cyclic=True).name


def test_text_against_natural_order_is_undone():
    """Labels made in natural order beside files listed in text order: one pairing gives every file its own label."""
    files = [f"{number}.png" for number in range(1, 30)]
    listed, labels = sorted(files), np.arange(29)
    found = {one.name: one.labels(labels) for one in by_orders(orders_of(listed, on_disk=False), np.arange(29), 29)}
    own = [int(file.removesuffix(".png")) - 1 for file in listed]
    assert found["natural order of the files"].tolist() == own


def test_folders_by_number_and_files_by_text():
    """`for i in range(12): sorted(listdir(f"shard{i}"))` beside images in natural order is an order of its own."""
    listed = [f"shard{shard}/{number}.png" for shard in range(12) for number in range(1, 13)]
    labels_of = sorted(range(len(listed)), key=lambda row: (int(listed[row].split("/")[0][5:]), listed[row]))
    labels = np.array(labels_of)  # the label at place i is that of the file which lies there in the folder's text order
    found = {one.name: one.labels(labels) for one in by_orders(orders_of(listed, on_disk=False), np.arange(144), 144)}
    assert found["folder-wise text order of the files"].tolist() == list(range(144))


def test_a_joint_shuffle_does_not_hide_wrong_orders():
    """Lists paired in two orders and then shuffled together are told by the files' names alone."""
    rng = np.random.default_rng(0)
    files = [f"{number}.png" for number in range(40)]
    label_of = dict(zip(sorted(files), range(40), strict=True))  # text order for the files, natural for the labels
    shuffled = [files[place] for place in rng.permutation(40)]
    labels = np.array([label_of[file] for file in shuffled])
    right = [int(file.removesuffix(".png")) for file in shuffled]
    right_by = {
        one.name
        for one in by_orders(orders_of(shuffled, on_disk=False), np.arange(40), 40)
        if one.labels(labels).tolist() == right
    }
    assert any("natural order" in name and "text order" in name for name in right_by)


def test_no_pairing_comes_twice_and_none_is_that_of_the_data():
    """Orders that are equal make one pairing; the labels as they are make none."""
    orders = orders_of([f"{number:03}.png" for number in range(20)], on_disk=False)
    sources = [one.source_N.tobytes() for one in by_orders(orders, np.arange(20), 20)]
    assert len(set(sources)) == len(sources) and np.arange(20).tobytes() not in sources


def test_other_rows_keep_their_labels():
    """Orders within some rows move no other."""
    orders = orders_of([f"{number}.png" for number in range(30)], on_disk=False)
    for one in by_orders(orders, np.arange(5, 25), 30):
        assert one.source_N[:5].tolist() == [0, 1, 2, 3, 4] and one.source_N[25:].tolist() == [25, 26, 27, 28, 29]


def test_the_whole_folder_says_which_labels_are_missing(tmp_path):
    """As many images in the folder as labels: a part of them is matched by name, in every order there is."""
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    part = [str(tmp_path / f"{number}.png") for number in (7, 2, 11)]
    found = {one.name.partition(" of all")[0]: one.source_N.tolist() for one in of_whole_folder(part, 12)}
    assert found["natural order"] == [7, 2, 11]
    assert found["text order"] == [9, 4, 3]
    assert list(of_whole_folder(part, 13)) == [] and list(of_whole_folder(["gone/a.png"], 12)) == []


def test_the_file_systems_order_is_looked_up(tmp_path):
    """Where the files are there, the order in which their folder lists them is one of the orders."""
    paths = [str(tmp_path / name) for name in ("b.png", "a.png", "c.png")]
    assert "the file system's order" not in orders_of(paths)
    for path in paths:
        (tmp_path / path).write_bytes(b"x")
    listed = [str(path) for path in tmp_path.iterdir()]
    places = orders_of(paths)["the file system's order"]
    assert [paths[row] for row in np.argsort(places)] == listed


def test_folders_are_parts_where_there_are_several():
    """Rows by their folder; one folder alone is no part."""
    assert folders_of(["a/1.png", "a/2.png"]) == {}
    assert {name: rows.tolist() for name, rows in folders_of(["a/1", "b/1", "a/2"]).items()} == {"a": [0, 2], "b": [1]}
