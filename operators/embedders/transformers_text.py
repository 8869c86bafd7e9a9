"""Text through any encoder or decoder of transformers, pooled here: https://huggingface.co/docs/transformers.

Rows are padded on the right whatever side the tokenizer pads: an encoder masks the padding, a decoder has not seen it yet
when it reads the text, and both count their positions from the text's first token. So no vector depends on the rows beside
it; on the left a decoder's absolute positions would.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from operators.batch import Batch
from operators.embedders._pooling import LayeredConfig, aggregate_layers, pool_places
from operators.embedders._tokens import TokensConfig, narrowed, window_of
from operators.embedders._torch import TorchEmbedder
from operators.embedders._transformers import blocks_of, read_json, read_model, width_of


class Config(TokensConfig, LayeredConfig):
    """A model that `AutoModel` loads; of an encoder-decoder the encoder.

    `pooling` over a text's tokens, special ones included: "cls" (the first), "mean", "max", "last_token", "weighted_mean"
    (SGPT); see `pool_places`. Prompts are put before the text. `max_tokens` narrows the model's window.
    """

    not_in_fingerprint: ClassVar[frozenset[str]] = TokensConfig.not_in_fingerprint | LayeredConfig.not_in_fingerprint
    requires: ClassVar[tuple[str, ...]] = ("transformers", "tokenizers", "torch")
    extra: ClassVar[str | None] = "transformers"
    covers: ClassVar[str] = (
        "BERT, RoBERTa, ModernBERT, T5's encoder, GPT-2, Llama, Mistral and whatever AutoModel loads"
    )

    family: Literal["transformers_text"] = "transformers_text"
    pooling: Literal["cls", "mean", "max", "last_token", "weighted_mean"] = "mean"

    def resolve(self) -> Self:
        """Pin the revision and read dimension and window from the model's files.

        Raises `ModelNotFound` if the files are not those pinned or lack what is read, `SpecError` where the model
        brings untrusted code or has no such layer.
        """
        folder, revision = self.pin()
        if self.needs_hidden_states:
            self.check_layers(blocks_of(folder))
        found = {
            "revision": revision,
            "max_tokens": narrowed(window_of(folder), self.max_tokens, folder),
            "document_prompt": self.document_prompt or "",
            "query_prompt": self.query_prompt or "",
        }
        return self.sized(width_of(folder) * self.width_factor, **found)

    def preparation_key(self) -> str:
        """Models of one folder that cut and prompt alike share their token ids."""
        return self.tokens_key()

    def load(self, device: str, threads: int | None = None) -> TransformersTextEmbedder:
        """Load the weights onto `device`; `threads` bounds torch's CPU threads in this process.

        Raises `ModelNotFound` if there are no weights, some are missing, or none load without running code.
        """
        try:
            import torch  # noqa: F401
            from transformers import AutoModel, AutoModelForTextEncoding, AutoTokenizer
            from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
        except ImportError as failure:
            raise self.missing_extra() from failure
        folder, _ = self.find_weights()
        config = read_json(folder / "config.json")
        is_pair = config.get("is_encoder_decoder", False)
        has_encoder_alone = is_pair and config["model_type"] in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
        loader = AutoModelForTextEncoding if has_encoder_alone else AutoModel
        model = read_model(loader, folder, self)
        trusted = self.trust_remote_code
        self.check_tokenizer(
            AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trusted, local_files_only=True)
        )
        return TransformersTextEmbedder(model.get_encoder() if is_pair else model, self, device, threads)


class TransformersTextEmbedder(TorchEmbedder):
    """A loaded model; see `Config`."""

    config: Config

    def __init__(self, model: Any, config: Config, device: str, threads: int | None = None) -> None:
        super().__init__(model, config, device, threads)
        model.config.use_cache = False  # a decoder would keep what only generation needs
        # RoBERTa finds a row's padding by this id; to others, who see the mask, any will do.
        padding = getattr(model.config, "pad_token_id", None)
        self.fill = padding if isinstance(padding, int) and padding >= 0 else 0

    def forward(self, prepared: Batch) -> Any:
        """Pooled hidden states of token ids."""
        ids, mask = self.padded(prepared["input_ids"], self.fill)
        wanted = self.config.needs_hidden_states
        output = self.model(input_ids=ids.long(), attention_mask=mask, output_hidden_states=wanted)
        if not wanted:
            return pool_places(output.last_hidden_state, mask, self.config.pooling)
        states = aggregate_layers(output.hidden_states, self.config.layers, self.config.aggregate)
        return pool_places(states, mask, self.config.pooling)
