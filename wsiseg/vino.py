"""The folds of a bundle through OpenVINO: on a CPU faster than torch (decision 14), with the same weights.

For who has the extra ``openvino`` installed. Folds are compiled for each size of patch that comes: some
seconds. OpenVINO's own converter is not used: it would report to its makers.
"""

import copy
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wsiseg.ensemble import TorchPredictor
from wsiseg.errors import DeviceError
from wsiseg.machine import takes_openvino
from wsiseg.model import Network
from wsiseg.options import Engine

__all__ = ["OpenVinoPredictor", "on_engine"]


def on_engine(predictor: TorchPredictor, engine: Engine) -> TorchPredictor:
    """The same predictor, or one that computes by OpenVINO: where it is asked for, or is there to be taken.

    Raises:
        DeviceError: it is asked for and not installed, or another device than the CPU is to compute.
    """
    on_cpu = predictor.device.type == "cpu"
    if takes_openvino(engine, on_cpu=on_cpu):
        fp32, temperature = not predictor.half, predictor.temperature
        return OpenVinoPredictor(predictor.networks, fp32=fp32, temperature=temperature)
    if engine == "openvino":
        lacking = "is for the CPU: add --device cpu" if not on_cpu else "is not installed: wsiseg[openvino]"
        msg = f"--engine openvino {lacking}"
        raise DeviceError(msg)
    return predictor


class _Probability(nn.Module):
    """A fold from patches to probabilities."""

    def __init__(self, network: Network, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, rgb_BYX3: Tensor) -> Tensor:
        return torch.sigmoid(self.network(rgb_BYX3.permute(0, 3, 1, 2)) / self.temperature)


class OpenVinoPredictor(TorchPredictor):
    """As ``TorchPredictor`` on a CPU: one patch, one fold and one core for each pass, others beside it."""

    def __init__(self, networks: list[Network], *, fp32: bool, temperature: float = 1.0) -> None:
        super().__init__(networks, torch.device("cpu"), batch=1, fp32=fp32, temperature=temperature)
        self._core = import_module("openvino").Core()
        self._lock = threading.Lock()
        self._compiled: dict[tuple[int, int], list[Any]] = {}

    @property
    def numerics(self) -> str:
        """The arithmetic in words."""
        return f"{super().numerics} by openvino"

    def one(self, fold: int, rgb_YX3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """A fold's probabilities (Y, X) for one patch (Y, X, 3) uint8, on one core."""
        height, width, _ = rgb_YX3.shape
        with self._lock:
            if (height, width) not in self._compiled:
                self._compiled[height, width] = list(self._folds(height, width))
            compiled = self._compiled[height, width][fold]
        found = compiled.create_infer_request().infer([np.ascontiguousarray(rgb_YX3)[None]])
        return cast("npt.NDArray[np.float32]", found[compiled.output(0)][0])

    def _folds(self, height: int, width: int) -> Iterator[Any]:
        """Yield each fold compiled for patches of a size; the graph of all is the first one's."""
        graph = _graph(_Probability(self.networks[0], self.temperature), height, width)
        for network in self.networks:
            fold = copy.deepcopy(graph)  # OpenVINO shares the memory of its weights
            fold.load_state_dict(_Probability(network, self.temperature).state_dict())
            yield self._core.compile_model(_converted(fold), "CPU", self._how())

    def _how(self) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": "bf16" if self.half else "f32",
            "INFERENCE_NUM_THREADS": self.at_once,
            "NUM_STREAMS": self.at_once,
            "ENABLE_CPU_PINNING": False,  # other processes have their own
        }


def _graph(module: nn.Module, height: int, width: int) -> nn.Module:
    """A module as torch's graph of the operations that OpenVINO knows, for one patch of a size."""
    kept = import_module("openvino.frontend.pytorch.torchdynamo.export_decompositions").ops_to_not_decompose()
    table = torch.export.default_decompositions()
    for operation in kept:
        if operation in table:
            table.pop(operation)  # type: ignore[no-untyped-call]
    grey = torch.full((1, height, width, 3), 128, dtype=torch.uint8)
    exported = torch.export.export(module.eval(), (grey,)).run_decompositions(table)
    return cast("nn.Module", exported.module())


def _converted(graph: nn.Module) -> Any:
    """OpenVINO's model of a graph."""
    frontend = import_module("openvino.frontend").FrontEndManager().load_by_framework("pytorch")
    decoder = import_module("openvino.frontend.pytorch.fx_decoder").TorchFXPythonDecoder
    held = decoder(graph, dynamic_shapes=False)  # OpenVINO calls back to it and keeps no hold of it
    return frontend.convert(frontend.load(held))
