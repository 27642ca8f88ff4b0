"""A model's stages: the few large parts of its chain, between stem and head, that freezing and cutting speak of."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import nn

from finefold.nn.cutting import Chain
from finefold.nn.tracing import num_parts

STEM, HEAD = "stem", "head"
_MIN_STAGES = 3  # fewer large parts than this, and the largest is looked into
_LARGE = 3  # modules with parameters that make a part a block or more; a convolution with its norm has two


@dataclass(frozen=True)
class Stage:
    """Neighbouring parts of a chain.

    Args:
        name: `stem`, `head`, or the modules it runs over, as in `layers.2` and `features.4-6`.
        modules: its outermost modules, in the order in which data flows.
        cut: name of the cut point that ends it; None for the head.
        shape: of what it gives for one image; None for the head.
    """

    name: str
    modules: tuple[str, ...]
    cut: str | None
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class _Part:
    """What lies between two cut points."""

    modules: tuple[str, ...]
    is_large: bool
    cut: str | None
    shape: tuple[int, ...] | None


def find_stages(model: nn.Module, chain: Chain) -> tuple[Stage, ...]:
    """Stem, stages and head of a model, by its chain; empty where the chain has no cut.

    The model's parts are looked into, largest first, until three of them are large (a block or more). Parts that
    are not (a stem, a downsampling layer, a last norm) belong to what follows them; neighbours of one output
    shape make one stage, unless all have that shape, as a transformer's blocks do.
    """
    if chain.reason is not None:
        return ()
    parts = _parts(model, chain)
    if not any(part.is_large for part in parts):
        return _plain_stages(parts)
    # a stem of several convolutions is a stem still
    is_deep_stem = parts[0].is_large and sum(part.is_large for part in parts) > _MIN_STAGES
    first = next(number for number, part in enumerate(parts) if part.is_large and (number or not is_deep_stem))
    last = max(number for number, part in enumerate(parts) if part.is_large)
    stages = [_stage(parts[:first], STEM)] if first else []
    stages += [_stage(run) for run in _runs(parts[first : last + 1])]
    if parts[last + 1 :]:
        stages.append(_stage(parts[last + 1 :], HEAD))
    return tuple(stages)


def _parts(model: nn.Module, chain: Chain) -> list[_Part]:
    looked_into = {""}
    while True:
        parts = _divide(model, chain, looked_into)
        if sum(part.is_large for part in parts[1:]) >= _MIN_STAGES:
            return parts
        opened = [path for part in parts for path in part.modules if path in chain.opened]
        inside = [path for part in parts if part.is_large for path in part.modules if path in opened]
        if not any(part.is_large for part in parts):  # a network that ends in features, called by another module
            inside = [path for path in opened if _has_maps(path, chain)]
        if not inside:
            return parts
        looked_into.add(max(inside, key=lambda path: _num_values(model, path)))


def _has_maps(path: str, chain: Chain) -> bool:
    """Whether more than a vector crosses somewhere inside a module."""
    return any(len(cut.shape) > 1 and any(one.startswith(f"{path}.") for one in cut.modules) for cut in chain.cuts)


def _num_values(model: nn.Module, path: str) -> int:
    return sum(parameter.numel() for parameter in model.get_submodule(path).parameters())


def _divide(model: nn.Module, chain: Chain, looked_into: set[str]) -> list[_Part]:
    """The links as parts that end at cut points; modules that were not looked into stay whole."""
    cuts = {cut.modules[-1]: cut for cut in chain.cuts if cut.modules}
    shown = {link: _outermost(link, chain, looked_into) for link in chain.links}
    parts: list[_Part] = []
    modules: list[str] = []
    for number, link in enumerate(chain.links):
        if shown[link] not in modules:
            modules.append(shown[link])
        following = chain.links[number + 1] if number + 1 < len(chain.links) else None
        goes_on = following is not None and shown[following] == shown[link]
        if goes_on or (link not in cuts and following is not None):
            continue
        cut = cuts.get(link)
        is_deep = cut is None or len(cut.shape) > 1
        is_large = is_deep and any(num_parts(model, path) >= _LARGE for path in modules)
        parts.append(_Part(tuple(modules), is_large, cut.name if cut else None, cut.shape if cut else None))
        modules = []
    return parts


def _outermost(link: str, chain: Chain, looked_into: set[str]) -> str:
    """The module that stands for a link: its outermost parent that was opened and not looked into, or itself."""
    names = link.split(".")
    parents = (".".join(names[:length]) for length in range(1, len(names)))
    return next((path for path in parents if path in chain.opened and path not in looked_into), link)


def _runs(parts: Sequence[_Part]) -> list[list[_Part]]:
    """Large parts with the small ones before them, neighbours of one shape together."""
    runs: list[list[_Part]] = []
    waiting: list[_Part] = []
    for part in parts:
        waiting.append(part)
        if part.is_large:
            runs.append(waiting)
            waiting = []
    shapes = [run[-1].shape for run in runs]
    if len(set(shapes)) == 1:
        return runs
    return [[part for _, run in same for part in run] for _, same in groupby(zip(shapes, runs, strict=True), _first)]


def _first(pair: tuple[tuple[int, ...] | None, list[_Part]]) -> tuple[int, ...] | None:
    return pair[0]


def _plain_stages(parts: list[_Part]) -> tuple[Stage, ...]:
    """The stages of a chain of plain layers: neighbours of one height and width, then the head."""
    deep = [part for part in parts if part.shape is not None and len(part.shape) > 1]
    runs = [list(run) for _, run in groupby(deep, lambda part: part.shape and part.shape[1:])]
    head = parts[len(deep) :]
    return (*(_stage(run) for run in runs), *([_stage(head, HEAD)] if head else []))


def _stage(parts: Sequence[_Part], name: str | None = None) -> Stage:
    modules = tuple(path for part in parts for path in part.modules)
    if name == HEAD:
        return Stage(HEAD, modules, None, None)
    return Stage(name or _name(modules), modules, parts[-1].cut, parts[-1].shape)


def _name(modules: tuple[str, ...]) -> str:
    first, last = modules[0], modules[-1]
    if first == last:
        return first
    before, _, end = last.rpartition(".")
    return f"{first}-{end}" if first.rpartition(".")[0] == before else f"{first}-{last}"
