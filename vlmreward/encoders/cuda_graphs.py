"""An image tower that a GPU replays from recorded CUDA graphs, so that no time goes into launching its kernels.

The kernels are those of PyTorch. A compiler (``torch.compile``) would fuse some of them, but needs a C compiler, and
Triton, which dies where a picture was rendered through EGL before. Nothing is measured, neither how close the
embeddings are nor what is gained: no GPU was at hand.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import torch

MOST_GRAPHS = 4  # batch sizes that are recorded; each graph keeps the memory of its activations
WARM_UPS = 3  # runs before the recording, as PyTorch's manual asks: libraries choose kernels and take memory
_RECORDING = threading.Lock()
"""One recording at a time in this process: PyTorch's allocator and its default recording stream are shared."""


class _Recorded(NamedTuple):
    graph: Any
    pixels: torch.Tensor
    features: torch.Tensor


class GraphedTower:
    """Records a tower for each of the first few batch sizes, and replays it; other sizes run as they are.

    Args:
        tower: An image tower on a GPU, returns features or a tuple that starts with them.
        device: That GPU.
    """

    def __init__(self, tower: torch.nn.Module, device: torch.device) -> None:
        self.tower = tower
        self.device = device
        self._recorded: dict[int, _Recorded] = {}

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features, shape (N, D); they are overwritten by the next call, on the same stream."""
        if len(pixels) not in self._recorded:
            if len(self._recorded) >= MOST_GRAPHS:
                return self._run(pixels)
            with _RECORDING:
                self._recorded[len(pixels)] = self._record(pixels)
        recorded = self._recorded[len(pixels)]
        recorded.pixels.copy_(pixels)
        recorded.graph.replay()
        return recorded.features

    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.tower(pixels)
        return features[0] if isinstance(features, tuple) else features

    def _record(self, pixels: torch.Tensor) -> _Recorded:
        pixels = pixels.clone()
        side = torch.cuda.Stream(self.device)  # PyTorch's own choice is one stream of one GPU for the whole process
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._run(pixels)
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: a policy that learns on another thread may take memory meanwhile
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            features = self._run(pixels)
        return _Recorded(graph, pixels, features)
