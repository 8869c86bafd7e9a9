"""A transformer as an ONNX graph: found, exported or quantised once, and run by onnxruntime or openvino.

Graphs that are made here lie in the user's cache folder, one folder each, named by what they were made of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.embedders._cache import made_folder
from operators.embedders.base import normalize_rows, short_hash
from operators.errors import MissingExtra, SpecError

if TYPE_CHECKING:
    from torch import Tensor, nn

OWN_GRAPH = ("onnx/model.onnx*",)  # and its tensors beside it, where they are too large for one file
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("last_hidden_state", "token_embeddings")
PACKAGES = {"onnx": ("onnxruntime",), "openvino": ("openvino", "onnxruntime")}
Run = Callable[[dict[str, np.ndarray]], np.ndarray]

# What the loss of a quantised model is measured on: short and long, words and code, several scripts.
SENTENCES = (
    "A man is playing a guitar.",
    "Ein Mann spielt Gitarre.",
    "The committee will meet again on Thursday to vote on the budget for the coming year.",
    "How do I read a CSV file into a data frame?",
    "def add(a: int, b: int) -> int: return a + b",
    "yes",
    "Shares of the company fell by 12.4% on Monday, their largest loss in one day since 2009.",
    "La fotosíntesis convierte la luz del sol en energía química.",
    "光合作用将阳光转化为化学能。",
    "Солнце встаёт на востоке и садится на западе.",
    "refund for order 4711, arrived broken",
    "The patient was given 20 mg of the drug twice a day for two weeks, and the symptoms went away.",
    "Two dogs run through the snow.",
    "https://example.org/docs?page=2",
    "To be, or not to be, that is the question.",
    "The boundary layer over a flat plate becomes turbulent when the Reynolds number passes a critical value. " * 6,
)


def check_installed(backend: str) -> None:
    """Raise `MissingExtra` unless the packages that run a graph are there. Imports none of them."""
    if any(find_spec(name) is None for name in PACKAGES[backend]):
        raise MissingExtra(f"backend '{backend}' needs an extra: pip install 'latentlake[{backend}]'")


def versions(backend: str) -> list[str]:
    """Names and versions of the packages that run a graph, and quantise it, for `backend`. Raises `MissingExtra`."""
    check_installed(backend)
    return [version(name) for name in PACKAGES[backend]]


def version(package: str) -> str:
    """Name and version of a package."""
    return f"{package} {import_module(package).__version__}"


def find_graph(body: nn.Module, folder: Path, revision: str, precision: str) -> Path:
    """Path of the graph of the transformer `body`: its folder's own, or one that is made, once, in the cache.

    `revision` is that of the folder's files. Several processes may make one graph at a time: the first one's is kept.
    """
    own = folder / "onnx" / "model.onnx"
    plain = own if own.is_file() else made_graph([revision, "exported"], ("torch", "transformers"), export, body)
    if precision == "fp32":
        return plain
    source = "own" if plain == own else plain.parent.name
    return made_graph([revision, "int8", source], ("onnxruntime",), quantize, plain)


def made_graph(named: list[str], packages: tuple[str, ...], make: Callable[[Any, Path], None], source: Any) -> Path:
    """Path of a graph that `make(source, path)` writes, unless the cache has it: under its name and of these packages."""
    name = short_hash([*named, *(version(package) for package in packages)])
    return made_folder("graphs", name, lambda folder: make(source, folder / "model.onnx")) / "model.onnx"


def export(body: nn.Module, path: Path) -> None:
    """Write the graph of a transformer: token ids and mask, int64 (n, length), to hidden states, fp32 (n, length, width)."""
    import torch

    try:
        import onnxscript  # noqa: F401
    except ImportError as failure:
        raise MissingExtra("to export a model needs an extra: pip install 'latentlake[onnx]'") from failure

    class HiddenStates(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.ones((2, 7), dtype=torch.int64)
    mask = ids.clone()
    mask[1, 4:] = 0  # without padding the mask may be left out of the graph
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    torch.onnx.export(
        HiddenStates().eval(),
        (ids, mask),
        path,
        input_names=list(INPUTS[:2]),
        output_names=list(OUTPUTS[:1]),
        dynamo=True,
        dynamic_shapes=dict.fromkeys(INPUTS[:2], axes),
        verbose=False,
    )


def quantize(plain: Path, path: Path) -> None:
    """Write a graph with weights in int8, a scale a channel; activations are quantised as they come.

    Weights keep to 7 bits: with 8, CPUs without VNNI saturate and give other numbers
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    external = sum(file.stat().st_size for file in plain.parent.glob(f"{plain.name}*")) > 2**31
    quantize_dynamic(
        plain,
        path,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        use_external_data_format=external,
    )


def open_graph(path: Path, backend: str, device: str, threads: int | None, config: Any, alone: bool) -> GraphBody:
    """A graph, ready to stand in the place of the transformer it was made of. `config` is that transformer's.

    `alone`: each row is run by itself, see `GraphBody`. Raises `MissingExtra`, `SpecError` for a device that the backend
    does not have, or for inputs and outputs that are not a text encoder's.
    """
    versions(backend)
    run, inputs, outputs = (open_onnxruntime if backend == "onnx" else open_openvino)(path, device, threads)
    if unknown := sorted(set(inputs) - set(INPUTS)):
        raise SpecError(f"graph '{path}' wants {unknown[0]}, which a text has not.\n  Use `backend: torch`.")
    output = next((name for name in OUTPUTS if name in outputs), None)
    if output is None:
        raise SpecError(f"graph '{path}' gives {', '.join(outputs)}, not {OUTPUTS[0]}.\n  Use `backend: torch`.")
    return GraphBody(lambda values: run(values, output), inputs, config, alone)


def open_onnxruntime(path: Path, device: str, threads: int | None) -> tuple[Callable[..., Any], list[str], list[str]]:
    """How to run a graph with onnxruntime, and the names of its inputs and outputs."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    has_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device.startswith("cuda") and not has_gpu:
        raise SpecError(
            "this onnxruntime has no CUDA.\n  Install onnxruntime-gpu in its place, or set the device to cpu."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    on_gpu = has_gpu and device != "cpu"
    providers = ["CUDAExecutionProvider"] * on_gpu + ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    inputs, outputs = ([value.name for value in values] for values in (session.get_inputs(), session.get_outputs()))
    return lambda values, output: session.run([output], values)[0], inputs, outputs


def open_openvino(path: Path, device: str, threads: int | None) -> tuple[Callable[..., Any], list[str], list[str]]:
    """How to run a graph with openvino, and the names of its inputs and outputs."""
    import openvino

    if device.startswith("cuda"):
        raise SpecError("openvino does not run on CUDA.\n  Set the device to cpu, or use `backend: onnx` or `torch`.")
    core = openvino.Core()
    # Unless it is told, it computes in bf16 on CPUs that can.
    options = {"INFERENCE_PRECISION_HINT": "f32", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
    model = core.compile_model(core.read_model(path), "CPU", options)
    inputs, outputs = ([port.get_any_name() for port in ports] for ports in (model.inputs, model.outputs))
    return lambda values, output: model(values)[output], inputs, outputs


class GraphBody:
    """Stands in the place of a transformer, and runs its graph.

    A quantised graph takes the scale of its activations from all that it is given at once. `alone` gives it one row at a
    time, without padding, so that no vector depends on the rows beside it; for long rows that is faster, too.
    """

    def __init__(self, run: Run, inputs: list[str], config: Any, alone: bool) -> None:
        self.run = run
        self.inputs = inputs
        self.config = config
        self.alone = alone

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **unused: Any) -> dict[str, Tensor]:
        """Hidden states of token ids and their mask, int64 (n, length): `last_hidden_state`, fp32 (n, length, width)."""
        import torch

        ids, mask = input_ids.numpy(), attention_mask.numpy()
        if not self.alone:
            return {"last_hidden_state": torch.from_numpy(self._states(ids, mask))}
        kept = mask == 1
        rows = [row[places][None] for row, places in zip(ids, kept, strict=True)]
        found = np.concatenate([self._states(row, np.ones_like(row))[0] for row in rows])
        states = np.zeros((*ids.shape, found.shape[-1]), dtype=np.float32)
        states[kept] = found
        return {"last_hidden_state": torch.from_numpy(states)}

    def _states(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        given = dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))
        return self.run({name: given[name] for name in self.inputs})


def cosine_loss(exact: np.ndarray, vectors: np.ndarray) -> dict[str, float]:
    """Cosine distances of quantised vectors from exact ones, both (n, dim): their mean and the worst."""
    distances = 1 - (normalize_rows(exact) * normalize_rows(vectors)).sum(axis=1)
    return {"int8_cosine_loss_mean": float(distances.mean()), "int8_cosine_loss_max": float(distances.max())}


def write_json(path: Path, value: Any) -> None:
    """Write a file of JSON at once, so that another process reads all of it or none."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)
