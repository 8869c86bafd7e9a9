"""Exported encoders beside onnxruntime and the torch modules that they were exported from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract import INPUTS
from encoder_maker import AUDIO, IMAGE, TEXT, modules, write_encoder, write_json, write_tokenizer
from libraries import library
from model_maker import Payload
from pydantic import ValidationError

from operators.batch import Batch, Waveform, make_batch, object_array
from operators.embedders.exported import Config, files_below
from operators.errors import ModelNotFound, SpecError
from operators.model_files import revision_of_files

torch = library("torch")
onnxruntime = library("onnxruntime")
library("onnxscript")

KINDS = ("text", "image", "audio")
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`write_encoder`, which exports each graph once; `changes` of the JSON get a folder of their own."""
    made: dict[tuple[Any, ...], Path] = {}

    def folder_of(kind: str, suffix: str = ".onnx", batch: int | None = None, **changes: Any) -> Path:
        key = (kind, suffix, batch)
        if key not in made:
            made[key] = write_encoder(tmp_path_factory.mktemp(kind), kind, suffix, batch)
        folder = tmp_path_factory.mktemp(kind)
        for file in made[key].iterdir():
            (folder / file.name).hardlink_to(file)
        encoder = json.loads((folder / "encoder.json").read_text())
        (folder / "encoder.json").unlink()
        write_json(folder, {**encoder, **changes})
        return folder

    return folder_of


def revision_of(folder: Path) -> str:
    return revision_of_files(files_below(folder), folder)


def config_of(folder: Path, **fields: Any) -> Config:
    if (folder / "model.pt2").exists():
        fields = {"revision": revision_of(folder), "trust_remote_code": True, **fields}
    return Config(model=str(folder), **fields).resolve()


def batch_of(kind: str, values: list[Any] | None = None) -> Batch:
    rows = object_array(INPUTS[kind]() if values is None else values)
    return {**make_batch([str(n) for n in range(len(rows))], [b""] * len(rows)), kind: rows}


def embed(config: Config, kind: str, values: list[Any] | None = None) -> np.ndarray:
    return config.load("cpu", threads=1).embed(config.prepare(batch_of(kind, values), "document"))


def plain_inputs(kind: str, value: Any, folder: Path) -> dict[str, np.ndarray]:
    """Inputs of one row, made without our code."""
    if kind == "image":
        from torchvision import transforms

        resize = transforms.Resize(40, interpolation=transforms.InterpolationMode.BICUBIC)
        crop, to_tensor = transforms.CenterCrop(32), transforms.ToTensor()
        normalize = transforms.Normalize(IMAGE["mean"], [1, 1, 1])
        return {"pixels": normalize(to_tensor(crop(resize(value))))[None].numpy()}
    if kind == "text":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(TEXT["max_tokens"])
        ids = np.array([tokenizer.encode(value).ids])
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    import soxr

    samples = soxr.resample(value.samples, value.rate, AUDIO["rate"], quality="HQ")
    if len(samples) <= 4000:
        return {"samples": np.pad(samples, (0, 4000 - len(samples)))[None]}
    starts = [start for start in range(0, len(samples), 3200) if start + 4000 < len(samples)]
    return {"samples": np.stack([samples[start : start + 4000] for start in [*starts, len(samples) - 4000]])}


def plain_vectors(kind: str, folder: Path, run: Callable[[dict[str, np.ndarray]], np.ndarray]) -> np.ndarray:
    outputs = [run(plain_inputs(kind, value, folder)) for value in INPUTS[kind]()]
    return np.stack([output[0].mean(0) if kind == "text" else output.mean(0) for output in outputs])


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_onnxruntime_and_torch(kind: str, make: Make) -> None:
    folder = make(kind)
    vectors = embed(config_of(folder), kind)
    session = onnxruntime.InferenceSession(folder / "model.onnx")

    def by_torch(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return modules()[kind](**{name: torch.from_numpy(values) for name, values in inputs.items()}).numpy()

    for run in (lambda inputs: session.run(None, inputs)[0], by_torch):
        np.testing.assert_allclose(vectors, plain_vectors(kind, folder, run), atol=1e-5)
    assert np.abs(vectors).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_programs_of_torch_export(kind: str, make: Make) -> None:
    folder = make(kind, ".pt2")
    np.testing.assert_allclose(embed(config_of(folder), kind), embed(config_of(make(kind)), kind), atol=1e-5)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_fixed_batch(suffix: str, make: Make) -> None:
    fixed = config_of(make("image", suffix, 3))
    for count in (7, 3, 1):
        rows = INPUTS["image"]()[:count]
        np.testing.assert_allclose(
            embed(fixed, "image", rows), embed(config_of(make("image")), "image", rows), atol=1e-5
        )


def test_a_long_sound_is_run_in_parts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(make("audio"))
    long = Waveform(np.random.default_rng(0).normal(0, 0.1, 8000 * 20).astype(np.float32), 8000)
    embedder = config.load("cpu", threads=1)
    sizes: list[int] = []
    run = embedder.run
    monkeypatch.setattr(embedder, "run", lambda values: sizes.append(len(values["samples"])) or run(values))
    vector = embedder.embed(config.prepare(batch_of("audio", [long]), "document"))[0]
    assert sizes == [16, 16, 16, 2]
    windows = [long.samples[start : start + 4000] for start in [*range(0, 8000 * 20 - 4000, 3200), 8000 * 20 - 4000]]
    with torch.no_grad():
        expected = modules()["audio"](torch.from_numpy(np.stack(windows))).mean(0).numpy()
    np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_of_places(pooling: str, make: Make) -> None:
    config = config_of(make("places", pooling=pooling))
    pixels = np.concatenate([plain_inputs("image", value, Path())["pixels"] for value in INPUTS["image"]()])
    with torch.no_grad():
        places = modules()["places"](torch.from_numpy(pixels)).numpy()
    expected = places.mean(1) if pooling == "mean" else places[:, 0]
    np.testing.assert_allclose(embed(config, "image"), expected, atol=1e-5)


def test_cls_of_texts(make: Make) -> None:
    texts = ["open a file", "compare two strings", "a"]
    folder = make("text", pooling="cls")
    with torch.no_grad():
        outputs = [
            modules()["text"](**{n: torch.from_numpy(v) for n, v in plain_inputs("text", text, folder).items()})
            for text in texts
        ]
    np.testing.assert_allclose(
        embed(config_of(folder), "text", texts), np.stack([output[0, 0].numpy() for output in outputs]), atol=1e-5
    )


def test_channels_last_and_levels(make: Make, tmp_path: Path) -> None:
    """A program that takes (n, h, w, 3) and other levels, and makes of them what the other encoder takes."""

    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = modules()["image"]

        def forward(self, pixels: Any) -> Any:
            return self.first((pixels * 2 - 0.5 - torch.tensor(IMAGE["mean"])).permute(0, 3, 1, 2))

    rows = ({0: torch.export.Dim("rows")},)
    program = torch.export.export(Last().eval(), (torch.zeros(2, 32, 32, 3),), dynamic_shapes=rows)
    torch.export.save(program, tmp_path / "model.pt2")
    write_json(tmp_path, {**IMAGE, "file": "model.pt2", "layout": "NHWC", "mean": [-0.5] * 3, "std": [2.0] * 3})
    np.testing.assert_allclose(embed(config_of(tmp_path), "image"), embed(config_of(make("image")), "image"), atol=1e-5)


def test_prompts_and_windows(make: Make) -> None:
    config = config_of(make("text"), document_prompt="open ", query_prompt="compare ")
    batch = batch_of("text", ["a file", "a file " * 9])
    prepared = config.prepare(batch, "document")
    plain = config_of(make("text")).prepare(batch_of("text", ["open a file", "open " + "a file " * 9]), "document")
    for name, values in plain.items():
        for row in range(2):
            np.testing.assert_array_equal(prepared[name][row], values[row])
    assert prepared["truncated"].tolist() == [False, True] and prepared["cost"].max() == 16
    asked = config.prepare(batch, "query")["input_ids"][0]
    assert asked.tolist() != prepared["input_ids"][0].tolist()
    assert config.window == 16 - 2 - 4 and config_of(make("image")).window is None


def test_vectors_of_length_one(make: Make) -> None:
    config = config_of(make("image", normalize=True))
    assert config.normalize and config.resolve() == config
    vectors = embed(config, "image")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    plain = embed(config_of(make("image")), "image")
    np.testing.assert_allclose(vectors, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-5)


def test_the_revision_covers_every_file(make: Make) -> None:
    folder = make("image")
    before = config_of(folder).revision
    assert (folder / "model.onnx.data").exists()  # tensors lie beside the graph
    for name in ("tensors-of-any-name", "encoder.json", "model.onnx.data"):
        path = folder / name
        content = path.read_bytes() if path.exists() else b""
        path.unlink(missing_ok=True)  # it is a link to the file of the other tests
        path.write_bytes(content + b" ")
        changed = config_of(folder).revision
        assert changed != before
        before = changed
    with pytest.raises(ModelNotFound, match=f"are {before}, not {'0' * 32}, which `revision` pins"):
        config_of(folder, revision="0" * 32)


def test_a_program_is_not_loaded_unless_it_is_trusted(make: Make, tmp_path: Path) -> None:
    folder = make("image", ".pt2")
    revision = revision_of(folder)
    with pytest.raises(SpecError, match=f"can run code as it loads[\\s\\S]*`revision: {revision}`"):
        Config(model=str(folder)).resolve()
    with pytest.raises(ValidationError, match="needs a pinned `revision`"):
        Config(model=str(folder), trust_remote_code=True)
    trusted = config_of(folder)
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    torch.save({"x": Payload(tmp_path / "it ran")}, other / "model.pt2")
    with pytest.raises(ModelNotFound, match="which `revision` pins"):
        trusted.model_copy(update={"model": str(other)}).load("cpu")
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"modality": "video", "dim": 3}, "Input tag 'video' found using 'modality' does not match"),
        ({"dim": 3}, "Unable to extract tag using discriminator 'modality'"),
        ({"modality": "image", "dim": 3, "resize": 8}, "image.crop: Field required"),
        ({**IMAGE, "crops": 3, "dim": 0}, r"image.dim: Input should be greater[^\n]*\n  image.crops: Extra inputs"),
        ({**IMAGE, "file": "../model.onnx"}, "image.file: String should match pattern"),
        ({**IMAGE, "file": "model.pkl"}, "image.file: String should match pattern"),
        ({**TEXT, "length": 8}, "text: Value error, max_tokens is 16, and the graph takes rows of 8 tokens"),
        ({**AUDIO, "overlap_seconds": 1}, "audio: Value error, overlap_seconds is 1, and a window has 0.5 seconds"),
        ([1], "Input should be an object"),
    ],
)
def test_a_wrong_json(encoder: Any, message: str, tmp_path: Path) -> None:
    write_json(tmp_path, encoder)
    with pytest.raises(SpecError, match=f"encoder.json of model '.*' is wrong[\\s\\S]*{message}"):
        Config(model=str(tmp_path)).resolve()


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "encoder.json").write_text("{")
    with pytest.raises(SpecError, match=r"is wrong\.\n  file: Invalid JSON"):
        Config(model=str(tmp_path)).resolve()


def test_files_that_are_not_there(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model folder"):
        Config(model=str(tmp_path / "nothing")).resolve()
    with pytest.raises(ModelNotFound, match=r'has no encoder.json[\s\S]*"modality": "image"'):
        Config(model=str(tmp_path)).resolve()
    write_json(tmp_path, IMAGE)
    with pytest.raises(ModelNotFound, match=r"has no file 'model.onnx', which its encoder.json names"):
        config_of(tmp_path).load("cpu")


@pytest.mark.parametrize(
    ("kind", "suffix", "changes", "message"),
    [
        ("text", ".onnx", {"mask": None}, "takes input_ids, attention_mask, and its encoder.json gives input_ids"),
        ("text", ".pt2", {"mask": None}, "takes input_ids, attention_mask, and its encoder.json gives input_ids"),
        ("image", ".onnx", {"input": "x"}, "takes pixels, and its encoder.json gives x"),
        ("image", ".onnx", {"output": "y"}, "has no output 'y'. Correct `output` in encoder.json: vectors"),
    ],
)
def test_inputs_and_outputs_of_other_names(kind: str, suffix: str, changes: Any, message: str, make: Make) -> None:
    config = config_of(make(kind, suffix, **changes))
    with pytest.raises(SpecError, match=message):
        config.load("cpu")


@pytest.mark.parametrize(
    ("kind", "suffix", "changes", "message"),
    [
        ("image", ".onnx", {"dim": 9}, r"of shape \(1, 8\), and its JSON says \(n, 9\)"),
        ("image", ".onnx", {"pooling": "mean"}, r"of shape \(1, 8\), and its JSON says \(n, places, 8\)"),
        ("places", ".onnx", {}, r"of shape \(1, 49, 8\), and its JSON says \(n, 8\)"),
        ("image", ".pt2", {"output": "y"}, "has no output 'y'"),
    ],
)
def test_outputs_of_another_shape(kind: str, suffix: str, changes: Any, message: str, make: Make) -> None:
    config = config_of(make(kind, suffix, **changes))
    with pytest.raises(SpecError, match=message):
        config.load("cpu")


def test_a_job_that_says_otherwise_than_the_json(make: Make) -> None:
    config = config_of(make("image"))
    other = config.encoder.model_copy(update={"resize": 99})  # type: ignore[union-attr]
    with pytest.raises(SpecError, match=r"`encoder` is not what encoder\.json of model"):
        config.model_copy(update={"encoder": other}).resolve()


def test_another_modality_than_the_job(make: Make) -> None:
    with pytest.raises(SpecError, match="embeds image, which the job's modality is not"):
        config_of(make("image")).prepare(batch_of("text"), "document")


def test_outputs_by_name_and_inputs_by_order(tmp_path: Path) -> None:
    class Named(torch.nn.Module):
        def forward(self, x: Any) -> dict[str, Any]:
            return {"sum": x.sum((2, 3)), "mean": x.mean((2, 3))}

    program = torch.export.export(Named(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, tmp_path / "model.pt2")
    means = []
    for output in ("mean", "sum", None):
        write_json(tmp_path, {**IMAGE, "dim": 3, "file": "model.pt2", "output": output})
        means.append(embed(config_of(tmp_path), "image"))
    np.testing.assert_allclose(means[0] * 32 * 32, means[1], rtol=1e-4)
    np.testing.assert_array_equal(means[1], means[2])


def test_texts_of_one_length_and_types(tmp_path: Path) -> None:
    class Typed(torch.nn.Module):
        def forward(self, input_ids: Any, types: Any) -> Any:
            return torch.stack([input_ids.float().sum(1), types.float().sum(1), (input_ids == 7).float().sum(1)], -1)

    ids = torch.ones(2, 12, dtype=torch.int64)
    rows = {0: torch.export.Dim("rows")}
    program = torch.export.export(Typed(), (ids, ids.clone()), dynamic_shapes=(rows, rows))
    torch.export.save(program, tmp_path / "model.pt2")
    write_tokenizer(tmp_path)
    json_file = {"modality": "text", "dim": 3, "max_tokens": 10, "length": 12, "pad_id": 7, "mask": None}
    write_json(tmp_path, {**json_file, "types": "types", "file": "model.pt2"})
    config = config_of(tmp_path)
    prepared = config.prepare(batch_of("text", ["open a file", "open a file " * 9]), "document")
    vectors = config.load("cpu", threads=1).embed(prepared)
    expected = [[ids.sum() + 7 * (12 - len(ids)), 0, (ids == 7).sum() + 12 - len(ids)] for ids in prepared["input_ids"]]
    np.testing.assert_array_equal(vectors, np.array(expected, dtype=np.float32))


def test_preparation_loads_neither_torch_nor_onnxruntime(make: Make) -> None:
    config = config_of(make("image"))
    code = """
import json, sys
from PIL import Image
from operators.batch import make_batch, object_array
from operators.embedders import load_config
config = load_config(json.loads(sys.argv[1]))
batch = {**make_batch(["a"], [b""]), "image": object_array([Image.new("RGB", (30, 40))])}
assert config.prepare(batch, "document")["pixels"].shape == (1, 32, 32, 3)
print(json.dumps(sorted(sys.modules)))
"""
    arguments = [sys.executable, "-c", code, json.dumps(config.model_dump(mode="json"))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in json.loads(done.stdout)} & {"torch", "onnxruntime", "transformers"}
