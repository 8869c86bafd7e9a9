"""What the families that run on torch have in common: precision, device, compilation, and the way from numpy and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np

from operators.batch import Batch
from operators.embedders.base import EmbedderConfig
from operators.errors import SpecError

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # torch's names


class TorchConfig(EmbedderConfig):
    """Config of a model that torch runs.

    `compute_dtype` is the precision of weights and activations; vectors leave the model as float32. `compile` hands the
    model to `torch.compile`: the first batches of each shape are slow, later ones faster.
    """

    not_in_fingerprint: ClassVar[frozenset[str]] = frozenset({"compile"})
    younger_fields: ClassVar[frozenset[str]] = frozenset({"compute_dtype"})

    compute_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    compile: bool = False


def check_device(device: str) -> None:
    """Raise `SpecError` for a GPU that torch does not find, which a cluster may have promised all the same."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SpecError(
            f"torch {torch.__version__} finds no GPU where this model was to load on one: there is no device, no driver, or this "
            "torch is built without CUDA.\n  Put that right on the cluster's nodes, or embed on CPUs: pool.num_gpus: 0 in a job, "
            'device="cpu" in Python.'
        )


class TorchEmbedder:
    """A model on a device. A family's class says in `forward` how prepared rows become vectors."""

    def __init__(self, model: Any, config: TorchConfig, device: str, threads: int | None = None) -> None:
        """`model` is a torch module; `device` is "cpu", "cuda" or "auto". `threads` bounds torch's CPU threads."""
        import torch

        if threads:
            torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        check_device(device)
        self.config = config
        self.device = torch.device(device)
        self.dtype = getattr(torch, DTYPES[config.compute_dtype])
        self.model = model.eval().requires_grad_(False).to(self.device)
        # A model that was loaded in that dtype says so; to cast it would round what it keeps in fp32, as rotary frequencies.
        if getattr(model, "dtype", None) != self.dtype:
            self.model.to(self.dtype)
        if config.compile:
            self.model.compile(dynamic=True)

    def forward(self, prepared: Batch) -> Any:
        """Vectors of one batch of at least one row, as a torch tensor (n, dim) on the device, before `finish`."""
        raise NotImplementedError

    def embed(self, prepared: Batch) -> np.ndarray:
        """Vectors float32 (n, dim) of prepared rows."""
        if not len(prepared["cost"]):
            return np.zeros((0, self.config.dimension), dtype=np.float32)
        return self.begin(prepared)()

    @property
    def runs_ahead(self) -> bool:
        """Whether a batch can be begun while another is computed: a GPU works on while the CPU prepares the next."""
        return bool(self.device.type == "cuda")

    def begin(self, prepared: Batch) -> Callable[[], np.ndarray]:
        """Begin a batch of at least one row; what is returned waits for its vectors (see `embed`)."""
        import torch

        with torch.inference_mode():
            vectors = self.forward(prepared)
        return lambda: self.config.finish(vectors.float().cpu().numpy())

    def tensor(self, values: np.ndarray) -> Any:
        """An array on the device: copied, as arrays out of Arrow are read-only; from pinned memory where that is a GPU."""
        import torch

        made = torch.from_numpy(np.array(values))
        if self.device.type != "cuda":
            return made.to(self.device)
        return made.pin_memory().to(self.device, non_blocking=True)

    def images(self, pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
        """Pixels uint8 (n, h, w, 3) as a model takes them: (n, 3, h, w) in the compute dtype, 0 to 1, less `mean`, by `std`."""
        import torch

        shift = torch.tensor(mean, device=self.device).view(1, 3, 1, 1)
        scale = torch.tensor(std, device=self.device).view(1, 3, 1, 1)
        scaled = self.tensor(pixels).permute(0, 3, 1, 2).float().div(255)
        return ((scaled - shift) / scale).to(self.dtype)

    def padded(self, rows: np.ndarray, fill: float, left: bool = False) -> tuple[Any, Any]:
        """Rows of unequal length (an object array of 1-d arrays) as one tensor (n, longest), and the mask of what is theirs, int64."""
        longest = max(len(row) for row in rows)
        values = np.full((len(rows), longest), fill, dtype=rows[0].dtype)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        for index, row in enumerate(rows):
            place = slice(longest - len(row), longest) if left else slice(0, len(row))
            values[index, place] = row
            mask[index, place] = 1
        return self.tensor(values), self.tensor(mask)
