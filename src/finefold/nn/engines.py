"""One frozen forward, several engines: torch, OpenVINO, ONNX Runtime.

An engine takes uint8 [B, H, W, 3] and gives float32 [B, D], or the maps where the backbone is cut.
`streams` calls may run side by side, and together they use every processor.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from finefold.data.cachedir import cache_root, write_about
from finefold.data.machine import num_threads, processor_name, versions
from finefold.errors import EngineError
from finefold.nn.backbones import POOLED, Backbone
from finefold.nn.devices import has_bf16, set_threads
from finefold.nn.exported import RUNNERS, export_onnx

BATCH = 16
Images = NDArray[np.uint8]
Features = NDArray[np.float32]


class Engine(Protocol):
    """A frozen forward on one engine at one precision."""

    name: str
    precision: str
    streams: int

    def __call__(self, images_BHWC: Images) -> Features: ...


@dataclass(frozen=True)
class Choice:
    """An engine and its precision, and where the choice came from."""

    engine: str
    precision: str
    reason: str


class TorchEngine:
    """Eager torch, channels_last, autocast where bf16 is asked for. One call at a time uses all threads."""

    name = "torch"
    streams = 1

    def __init__(self, backbone: Backbone, precision: str) -> None:
        set_threads()
        self.precision = precision
        self._module = backbone.build().to(memory_format=torch.channels_last)
        self._lock = threading.Lock()

    def __call__(self, images_BHWC: Images) -> Features:
        is_bf16 = self.precision == "bf16"
        with self._lock, torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            features_BD: torch.Tensor = self._module(torch.from_numpy(images_BHWC))
        return features_BD.float().numpy()


class ExportedEngine:
    """The backbone as ONNX, on a runner."""

    def __init__(self, name: str, backbone: Backbone, precision: str) -> None:
        self.name, self.precision = name, precision
        self._run = RUNNERS[name](partial(exported_model, backbone), precision)
        self.streams = self._run.streams

    def __call__(self, images_BHWC: Images) -> Features:
        return self._run(images_BHWC)


ENGINES: dict[str, Callable[[Backbone, str], Engine]] = {
    "torch": TorchEngine,
    **{name: partial(ExportedEngine, name) for name in RUNNERS},
}


def make_engine(backbone: Backbone, choice: Choice) -> Engine:
    """The engine of a choice.

    Raises:
        EngineError: its package is not installed, or it cannot run this model.
    """
    try:
        return ENGINES[choice.engine](backbone, choice.precision)
    except ImportError as reason:
        raise EngineError(
            f"the engine `{choice.engine}` is not installed: {reason}", 'pip install "finefold[cpu]"'
        ) from reason
    except RuntimeError as reason:
        raise EngineError(
            f"the engine `{choice.engine}` cannot run {backbone.name}: {str(reason).splitlines()[0][:200]}",
            'set model.engine = "torch"',
        ) from reason


def exported_model(backbone: Backbone) -> str:
    """Path of the backbone as an ONNX file in the cache, made where missing.

    Raises:
        EngineError: torch cannot export this model.
    """
    until = "" if backbone.cut == POOLED else f"-{backbone.cut}"
    key = f"{backbone.weights_hash}-{backbone.preprocessing.hash}-torch{torch.__version__}{until}"
    folder = cache_root() / "exported" / key
    file = folder / "model.onnx"
    write_about(folder, {"kind": "exported", "what": f"{backbone.name}{until} as ONNX"})
    if file.is_file():
        return str(file)
    unfinished = folder / f".model.{os.getpid()}.onnx"
    size = (BATCH, backbone.preprocessing.height_px, backbone.preprocessing.width_px, 3)
    try:
        export_onnx(backbone.build(), torch.zeros(size, dtype=torch.uint8), unfinished, name=backbone.name)
    except EngineError:
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.replace(file)
    return str(file)


def choose_engine(backbone: Backbone, *, engine: str, precision: str, report: Callable[[str], None]) -> Choice:
    """The engine and precision to use; "auto" is measured once per machine and model, and remembered.

    Args:
        backbone: what is to run.
        engine: "auto", or an engine's name.
        precision: "auto" (bf16 where the processor has it and the engine offers it), "fp32" or "bf16".
        report: told in one line what was measured, and what could not run.

    Raises:
        EngineError: no engine offers what is asked for.
    """
    candidates = [(name, used) for name in ENGINES if (used := _precision_of(name, precision)) is not None]
    if engine != "auto":
        used = _precision_of(engine, precision)
        if used is None:
            raise EngineError(f"{engine} has no {precision} on the CPU", 'set model.precision = "fp32"')
        return Choice(engine, used, "asked for")
    conditions = [backbone.name, backbone.preprocessing.hash, candidates, processor_name(), num_threads(), versions()]
    key = hashlib.sha256(json.dumps(conditions).encode()).hexdigest()[:16]
    folder = cache_root() / "engines" / key
    if (folder / "about.json").is_file():
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        write_about(folder, about)
        return Choice(about["engine"], about["precision"], "remembered")
    rates = _measure(backbone, candidates, report)
    best, used = max(rates, key=lambda pair: rates[pair])
    about = {"kind": "engines", "what": f"the fastest engine for {backbone.name}", "engine": best, "precision": used}
    about["images_per_second"] = {f"{name} {kind}": round(rate, 1) for (name, kind), rate in rates.items()}
    write_about(folder, about)
    return Choice(best, used, "measured")


def _precision_of(engine: str, asked: str) -> str | None:
    """The precision an engine would run at; None where it does not offer what is asked for."""
    if engine == "onnxruntime":
        return None if asked == "bf16" else "fp32"
    return asked if asked != "auto" else "bf16" if has_bf16() else "fp32"


def _measure(
    backbone: Backbone, candidates: list[tuple[str, str]], report: Callable[[str], None]
) -> dict[tuple[str, str], float]:
    """Images per second of each engine and precision that can run the backbone."""
    rates: dict[tuple[str, str], float] = {}
    for name, used in candidates:
        try:
            rates[name, used] = measure_rate(make_engine(backbone, Choice(name, used, "")), backbone)
        except EngineError as reason:
            report(f"engine {name} is not used: {reason.message}")
    if not rates:
        raise EngineError(f"no engine can run {backbone.name}", "see the lines above for the reason of each")
    shown = ", ".join(f"{name} {used} {rate:.0f}" for (name, used), rate in rates.items())
    report(f"engines on this machine, images/s: {shown}")
    return rates


def measure_rate(engine: Engine, backbone: Backbone, *, batches: int = 2) -> float:
    """Images per second on ready tensors, every stream busy: `batches` of 16 each, after one to warm up."""
    shape = (BATCH, backbone.preprocessing.height_px, backbone.preprocessing.width_px, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    barrier = threading.Barrier(engine.streams + 1)
    failures: list[Exception] = []

    def work() -> None:
        try:
            engine(images)
        except Exception as reason:
            failures.append(reason)
        barrier.wait()
        for _ in range(0 if failures else batches):
            engine(images)

    threads = [threading.Thread(target=work) for _ in range(engine.streams)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise EngineError(f"{engine.name} cannot run {backbone.name}: {failures[0]}")
    return engine.streams * batches * BATCH / (time.perf_counter() - start)


def engine_note(engine: Engine) -> dict[str, Any]:
    """What a run's provenance keeps of its engine."""
    return {"engine": engine.name, "precision": engine.precision, "streams": engine.streams}
