"""A frozen model as ONNX, and what runs it on the processor: OpenVINO and ONNX Runtime.

Convolutions on one thread each, two batches at a time, waste less than two threads on one batch (measured on 2 cores
with Lite0 in bf16: 308 against 266 images/s), so a runner takes as many calls side by side as there are processors.
"""

import os
import queue
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finefold.errors import EngineError
from finefold.nn.devices import set_threads

Onnx = Callable[[], str | bytes]  # makes it: a file, or what would be in it


def export_onnx(module: nn.Module, example: Tensor, target: Path | BytesIO, *, name: str) -> None:
    """Writes a module of one input and one output as ONNX; the first axis of both may have any length.

    Args:
        module: in evaluation mode.
        example: an input.
        target: where to.
        name: of the model, for the error.

    Raises:
        EngineError: torch cannot export it.
    """
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the TorchScript exporter is deprecated, and 7x faster than its successor
            torch.onnx.export(
                module,
                (example,),
                str(target) if isinstance(target, Path) else target,  # type: ignore[arg-type]  # without dynamo files do
                dynamo=False,
                input_names=["rows"],
                output_names=["found"],
                dynamic_axes={"rows": {0: "batch"}, "found": {0: "batch"}},
            )
    except Exception as reason:
        message = (str(reason).splitlines() or [type(reason).__name__])[0][:200]
        raise EngineError(f"{name} cannot be exported to ONNX: {message}", 'set model.engine = "torch"') from reason


class Runner(Protocol):
    """An exported model that may be called from `streams` threads side by side; further ones wait."""

    streams: int

    def __call__(self, rows: NDArray[Any]) -> NDArray[np.float32]: ...


class OpenVinoRunner:
    """OpenVINO on the CPU: a stream, and so a thread, per processor."""

    def __init__(self, model: Onnx, precision: str) -> None:
        # importing openvino's model converter reports to its makers unless this module is not to be had
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        self.streams = set_threads()
        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": str(self.streams),
            "INFERENCE_NUM_THREADS": str(self.streams),
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        compiled = core.compile_model(core.read_model(model()), "CPU", settings)
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.streams):
            self._free.put(compiled.create_infer_request())
        # two threads that first hand over arrays at the same moment can wait for each other for ever: be the first here
        openvino.Tensor(np.zeros(1, np.float32))

    def __call__(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        request = self._free.get()
        try:
            request.infer({0: rows}, share_inputs=True)
            return np.array(request.get_output_tensor(0).data, np.float32)
        finally:
            self._free.put(request)


class OnnxRuntimeRunner:
    """ONNX Runtime on the CPU: as many calls side by side as processors, one thread each."""

    def __init__(self, model: Onnx, precision: str) -> None:
        if precision != "fp32":
            raise EngineError(f"onnxruntime has no {precision} on the CPU", 'set model.precision = "fp32"')
        # its wheels give the machine an id and report sessions to their makers unless told so before they are imported
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        self.streams = set_threads()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model(), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(self._session.run(None, {self._input: rows})[0], np.float32)


RUNNERS: dict[str, Callable[[Onnx, str], Runner]] = {"openvino": OpenVinoRunner, "onnxruntime": OnnxRuntimeRunner}
