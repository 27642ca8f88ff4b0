"""Training and validation as people's own code makes them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, WeightedRandomSampler

from finefold.doctor.contract import check_contract
from finefold.doctor.loading import unloaded
from finefold.doctor.subject import Subject
from finefold.errors import DataError
from unit.doctor.planted import planted, subject_of

FEATURES, LABELS = planted(200)


class Photos:
    """Rows of numbers as pictures, with a transform as everyone has it."""

    def __init__(self, count=100, transform=None, *, scale=1.0, shape=(3, 8, 6), first=0):
        self.count, self.transform, self.scale, self.shape, self.first = count, transform, scale, shape, first

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        image = np.random.default_rng(self.first + row).random(self.shape).astype(np.float32) * self.scale
        return (image if self.transform is None else self.transform(image)), int(LABELS[row])


class Noise:
    """A random transform."""

    def __call__(self, image):
        return image + np.random.rand()


def subject(dataset, **changes) -> Subject:
    rows = len(dataset)
    return replace(subject_of(FEATURES[:rows], LABELS[:rows]), dataset=dataset, **changes)


def breaches(train, valid=None, **changes) -> list[tuple[str, str]]:
    pair = subject(train, valid=None if valid is None else subject(valid), **changes)
    found = check_contract(pair).findings
    assert {one.kind for one in found} <= {"contract-broken"}
    return [(one.evidence["what"], one.severity) for one in found]


def test_roles_of_their_own_have_no_finding():
    """Augmented training and plain validation of two objects: what was compared is said."""
    said = check_contract(subject(Photos(transform=Noise()), valid=subject(Photos(first=500))))
    assert not said.findings and "32 rows read twice" in said.says


def test_two_subsets_of_one_augmented_data_set():
    """The classic: Subset and Subset of one object whose transform is random; the shared object is named."""
    whole = Photos(200, Noise())
    train, valid = Subset(whole, range(100)), Subset(whole, range(100, 200))
    assert breaches(train, valid) == [("augmented validation", "error")]
    (found,) = check_contract(subject(train, valid=subject(valid))).findings
    assert "share one `Photos` object" in found.cause and found.ids


def test_one_transform_instance_in_two_data_sets():
    """The same random object given to both roles; and a random transform of validation's own."""
    noise = Noise()
    (found,) = check_contract(
        subject(Photos(transform=noise), valid=subject(Photos(transform=noise, first=500)))
    ).findings
    assert "share one random transform object, `Photos.transform`" in found.cause and found.severity == "error"
    for seed in range(20):  # chance in validation also moves its numbers, which is no second finding
        np.random.seed(seed)
        (found,) = check_contract(subject(Photos(), valid=subject(Photos(transform=Noise(), first=500)))).findings
        assert "its own transform is random" in found.cause and found.severity == "error"


def test_a_shared_plain_transform_means_training_is_not_augmented():
    """Whatever was set last counts for both: worth knowing, no error."""
    whole = Photos(200, np.copy)
    assert breaches(Subset(whole, range(100)), Subset(whole, range(100, 200))) == [("shared transform", "info")]


def test_rows_kept_on_the_class():
    """The second object contains the first one's rows: an error for a pair, told in advance of a single one."""

    class Listed(Photos):
        rows: list[int] = []  # noqa: RUF012 - this is the mistake
        names = ["a", "b"]  # noqa: RUF012 - and this is none

        def __init__(self, rows):
            super().__init__(len(rows))
            self.rows += rows

        def __len__(self):
            return len(self.rows)

    one = Listed(list(range(60)))
    assert breaches(one) == [("class list", "info")]
    other = Listed(list(range(60, 90)))
    assert breaches(one, other) == [("class list", "error")]
    (found,) = check_contract(subject(one, valid=subject(other))).findings
    assert "`Listed.rows`" in found.cause and "the same 90 rows" in found.cause and "self.rows = []" in found.remedy


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scale": 255.0}, [("scale", "error")]),
        ({"scale": 2.0}, [("scale", "warning")]),
        ({"shape": (3, 6, 8)}, [("shape", "error")]),
        ({"shape": (3, 9, 9)}, [("shape", "warning")]),
        ({"scale": 1.1}, []),
    ],
)
def test_validation_that_is_preprocessed_otherwise(changes, expected):
    """Another scale, height and width swapped, another size; a little more light is nothing."""
    assert breaches(Photos(), Photos(first=500, **changes)) == expected


def test_a_loader_that_drops_or_repeats_rows():
    """drop_last at evaluation is an error that says how far a score can go; so is a sampler that repeats."""
    for loader, what in (
        (DataLoader(Photos(first=500), batch_size=32, drop_last=True), "4 of 100 rows are never scored"),
        (DataLoader(Photos(first=500), sampler=WeightedRandomSampler(torch.ones(100), 100)), "more than once"),
    ):
        dataset, loading = unloaded(loader)
        pair = subject(Photos(), valid=subject(dataset, loading=loading))
        (found,) = check_contract(pair).findings
        assert found.severity == "error" and what in found.cause
    dataset, loading = unloaded(DataLoader(Photos(first=500), batch_size=50, drop_last=True))
    assert not check_contract(subject(Photos(), valid=subject(dataset, loading=loading))).findings


def test_a_sampler_of_a_part_is_that_part():
    """SubsetRandomSampler shows some rows of a shared data set: these are the rows that are examined."""
    sampler = torch.utils.data.SubsetRandomSampler([5, 1, 9])
    dataset, loading = unloaded(DataLoader(Photos(), sampler=sampler))
    assert list(dataset.indices) == [1, 5, 9] and loading.num_dropped == loading.num_repeated == 0
    assert unloaded(Photos)[0] is Photos


def test_an_iterable_data_set_is_refused():
    """Its rows have no numbers."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(DataError, match="iterable"):
        unloaded(DataLoader(Stream()))


def test_a_model_in_training_mode_is_a_warning():
    """Dropout that is on at evaluation; the model stays in its mode, and one without such layers is fine."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4), nn.Dropout(0.9))
    assert breaches(Photos(), model=model.train()) == [("training mode", "warning")] and model.training
    (found,) = check_contract(subject(Photos(), model=model)).findings
    assert found.evidence["differing"] > 0
    assert not breaches(Photos(), model=model.eval())
    assert not breaches(Photos(), model=nn.Sequential(nn.Flatten(), nn.Linear(144, 4)).train())
