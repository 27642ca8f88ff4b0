"""The keys of a state dict as units: the tensors that one layer holds, with what they are and where they stand."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import lru_cache

from torch import Tensor

from finefold.data.images import natural_key

Shape = tuple[int, ...]
Label = tuple[tuple[str, Shape], ...]

COUNTER = "num_batches_tracked"
ONLY = "only"
_WRAPPERS = {"module", "model", "backbone", "net", "network", "_orig_mod", "base_model", "student", "teacher"}
_WRAPPED_SHARE = 0.9  # of the keys that must have such a name in front
_ROLES = {
    "weight": "weight",
    "bias": "bias",
    "running_mean": "running_mean",
    "running_var": "running_var",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_PARTS_OF_QKV = re.compile(r"^(?:to_|w_?|in_proj_)?(q|k|v)(?:uery|ey|alue)?(?:_?proj|_?lin|_?linear)?$")


@dataclass(frozen=True)
class Unit:
    """The tensors of one layer, or one parameter that stands alone.

    Args:
        path: the layer's name, or the parameter's.
        keys: role (weight, bias, running_mean, running_var, only) -> the state's keys; several where query, key
            and value are tensors of their own.
        shapes: role -> shape without trailing ones.
        order: place in the state.
    """

    path: str
    keys: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, Shape]
    order: int

    @property
    def label(self) -> Label:
        """What can be said of it whatever its name: roles and shapes."""
        return tuple(sorted(self.shapes.items()))

    @property
    def num_pieces(self) -> int:
        """3 where query, key and value are tensors of their own, else 1."""
        return len(next(iter(self.keys.values())))


def holds_weights(tensor: Tensor) -> bool:
    """Whether a tensor is of numbers that training changes or measures, and not of indices or counts."""
    return tensor.is_floating_point() or tensor.is_complex()


def says_its_role(key: str) -> bool:
    """Whether a key's last name says what the tensor is to its layer."""
    return key.rpartition(".")[2] in _ROLES


def plain_shape(shape: Sequence[int]) -> Shape:
    """A shape without trailing ones: a 1x1 convolution's weight looks like a linear layer's."""
    plain = tuple(shape)
    while len(plain) > 1 and plain[-1] == 1:
        plain = plain[:-1]
    return plain


def find_units(state: Mapping[str, Tensor], keys: Iterable[str]) -> list[Unit]:
    """The units of a state's keys, in the order given; integer tensors and batch counters are left out."""
    found: dict[str, dict[str, str]] = {}
    chosen = [key for key in keys if holds_weights(state[key]) and not key.endswith(COUNTER)]
    parents = {key.rpartition(".")[0] for key in chosen if key.endswith((".beta", ".bias"))}
    for key in chosen:
        path, role = _place(key, parents)
        found.setdefault(path, {})[role] = key
    units = []
    for order, (path, roles) in enumerate(found.items()):
        if len(roles) == 1:
            key = next(iter(roles.values()))
            units.append(Unit(path, {ONLY: (key,)}, {ONLY: _alone_shape(key, state[key])}, order))
        else:
            shapes = {role: plain_shape(state[key].shape) for role, key in roles.items()}
            units.append(Unit(path, {role: (key,) for role, key in roles.items()}, shapes, order))
    return _fuse(units)


def _place(key: str, parents_with_bias: set[str]) -> tuple[str, str]:
    """A key's unit and its role there."""
    path, _, last = key.rpartition(".")
    if last in ("in_proj_weight", "in_proj_bias"):  # torch's own attention
        return f"{path}.in_proj".lstrip("."), last.removeprefix("in_proj_")
    if last in ("gamma", "moving_mean", "moving_variance") and path not in parents_with_bias:
        return key, ONLY
    if last in _ROLES:
        return path, _ROLES[last]
    return key, ONLY


def _alone_shape(key: str, tensor: Tensor) -> Shape:
    shape = plain_shape(tensor.shape)
    if key.endswith("weight"):
        return shape
    while len(shape) > 1 and shape[0] == 1:  # a class token [1, 1, C], a position table [1, N, C]
        shape = shape[1:]
    return shape


def _fuse(units: list[Unit]) -> list[Unit]:
    """Query, key and value of one parent as one unit, as if their tensors lay on top of each other."""
    parts: dict[str, dict[str, Unit]] = {}
    for unit in units:
        parent, _, name = unit.path.rpartition(".")
        letter = _PARTS_OF_QKV.match(name.lower())
        if letter:
            parts.setdefault(parent, {})[letter.group(1)] = unit
    whole = {
        parent: [letters[one] for one in "qkv"]
        for parent, letters in parts.items()
        if len(letters) == 3 and len({unit.label for unit in letters.values()}) == 1
    }
    gone = {unit.path for three in whole.values() for unit in three}
    kept = [unit for unit in units if unit.path not in gone]
    for parent, (query, key, value) in whole.items():
        keys = {role: (query.keys[role][0], key.keys[role][0], value.keys[role][0]) for role in query.keys}
        shapes = {role: (3 * shape[0], *shape[1:]) for role, shape in query.shapes.items()}
        order = min(query.order, key.order, value.order)
        kept.append(Unit(f"{parent}.qkv".lstrip("."), keys, shapes, order))
    kept.sort(key=lambda unit: unit.order)
    return [replace(unit, order=order) for order, unit in enumerate(kept)]


def wrapper_prefix(keys: Iterable[str]) -> str:
    """What wrappers (DistributedDataParallel, Lightning, compile) put before the keys: `module.`, `model.backbone.`.

    Every key has it; or, where it is a name that wrappers use, nearly every, and the others (a loss's own weights)
    do not collide with them.
    """
    known = list(keys)
    prefix = ""
    while True:
        heads = Counter(key[len(prefix) :].split(".", 1)[0] for key in known if key.startswith(prefix) and "." in key)
        name, count = max(heads.items(), key=lambda pair: pair[1], default=("", 0))
        longer = f"{prefix}{name}."
        rest = {key for key in known if not key.startswith(longer)}
        if not any("." in key.removeprefix(longer) for key in known if key.startswith(longer)):
            return prefix  # a layer's name, not a wrapper's
        is_likely = name in _WRAPPERS and count >= _WRAPPED_SHARE * len(known)
        if not count or (rest and not is_likely):
            return prefix
        if rest & {key.removeprefix(longer) for key in known if key.startswith(longer)}:
            return prefix
        prefix = longer


def common_prefixes(source: Iterable[str], target: Iterable[str]) -> tuple[list[str], bool]:
    """What stands before the keys of one side where the other has none, and whether it is the source that has it.

    Several where they do equally well, as `student.` and `teacher.` do.
    """
    sides = (list(source), list(target))
    best, count = ([""], True), len(set(sides[0]) & set(sides[1]))
    for is_outer, (longer, shorter) in ((True, sides), (False, sides[::-1])):
        known = set(longer)
        names = [key.split(".") for key in longer]
        starts = {".".join(parts[:depth]) + "." for parts in names for depth in (1, 2, 3) if len(parts) > depth}
        for start in sorted(starts):
            hits = sum(start + key in known for key in shorter)
            if hits > count:
                best, count = ([start], is_outer), hits
            elif hits == count and hits and best[1] == is_outer and best[0] != [""]:
                best[0].append(start)
    return best


def is_grouped(keys: Sequence[str]) -> bool:
    """Whether the keys of every part stand together, as in the order in which a model defines them.

    The tensors of one layer need not: some files have all weights of query, key and value before all biases.
    """
    seen: set[str] = set()
    here: set[str] = set()
    for key in keys:
        names = key.split(".")
        parents = {".".join(names[:length]) for length in range(1, len(names) - 1)}
        if (parents - here) & seen:
            return False
        seen |= parents
        here = parents
    return True


@lru_cache(maxsize=65536)
def words_and_numbers(path: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """ "layer1.0.conv2" -> (layer, conv) and (1, 0, 2)."""
    pieces = re.findall(r"[A-Za-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", path))
    words = tuple(piece.lower() for piece in pieces if not piece.isdigit())
    return words, tuple(int(piece) for piece in pieces if piece.isdigit())


@lru_cache(maxsize=65536)
def name_likeness(one: str, other: str) -> float:
    """0 (nothing in common) to 1 (the same words): the mean likeness of each word to the likest of the other name."""
    words, others = words_and_numbers(one)[0], words_and_numbers(other)[0]
    if not words or not others:
        return 0.0
    rows = [[_likeness(word, another) for another in others] for word in words]
    best = [max(row) for row in rows] + [max(column) for column in zip(*rows, strict=True)]
    return sum(best) / len(best)


def _likeness(word: str, other: str) -> float:
    if word == other:
        return 1.0
    short, long = sorted((word, other), key=len)
    if len(short) >= 3 and long.startswith(short):  # embed, embedding
        return 0.9
    ratio = SequenceMatcher(None, word, other).ratio()
    return ratio if ratio >= 0.6 else 0.0


def natural_order(paths: Sequence[str]) -> list[int]:
    """The rank of each path when numbers inside names count as numbers."""
    ranked = sorted(range(len(paths)), key=lambda place: natural_key(paths[place]))
    ranks = [0] * len(paths)
    for rank, place in enumerate(ranked):
        ranks[place] = rank
    return ranks
