"""Write docs/models.md: `python docs/generate_models.py`.

Our side is read from the code (families, their settings, presets), the peers' from docs/models_peers.yaml. What is
installed makes no difference to the page; tests/test_models_page.py compares it with the committed one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field

from latentlake.embedders import FRAMEWORKS
from operators.embedders import config_class, family_names
from operators.embedders._torch import TorchConfig
from operators.embedders.base import EmbedderConfig
from operators.presets import Preset, read_presets

PAGE = Path(__file__).with_name("models.md")
PEERS = Path(__file__).with_name("models_peers.yaml")
ORDER = ("text", "image", "audio")
FIRST = ("model", "weights", "revision")  # of a family's settings


class Section(BaseModel):
    """A part of models_peers.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Peer(Section):
    """A registry that we compare with: which package of it was read, and where in it."""

    title: str
    version: str
    package: str  # URL
    root: str  # folder of the package, where all sources lie
    searched: str  # what "not found" rests on


class Claim(Section):
    """What a peer covers, and the files of its package that say so."""

    covers: str
    sources: list[str] = Field(min_length=1)


class Row(Section):
    """One kind of model, or of setting. A peer's claim is null where nothing was found."""

    kind: str
    families: list[str] = []  # ours of the kind
    field: str = ""  # or those that have this field
    ours: str = ""  # where it is no family
    note: str = ""
    daft: Claim | None
    lancedb: Claim | None
    curator: Claim | None


class Comparison(Section):
    """models_peers.yaml."""

    peers: dict[str, Peer]
    models: list[Row]
    settings: list[Row]


def read_comparison() -> Comparison:
    """The peers' side."""
    return Comparison.model_validate(yaml.safe_load(PEERS.read_text(encoding="utf-8")))


def own_families() -> dict[str, type[EmbedderConfig]]:
    """Config of every family of this repository, by name; those of installed entry points are left out."""
    found = {name: config_class(name) for name in family_names()}
    return {name: config for name, config in found.items() if config.__module__.startswith("operators.")}


def choices(config: type[BaseModel], field: str) -> list[str]:
    """What a field may be, where it is one of a few words; else nothing."""
    annotation = config.model_fields[field].annotation if field in config.model_fields else None
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is Literal:
            return [str(value) for value in get_args(part)]
    return []


def poolings(config: type[BaseModel]) -> str:
    """The ways in which places, or words, become one vector."""
    return ", ".join(choices(config, "pooling") or choices(config, "weighting"))


def setting(config: type[BaseModel], field: str) -> str:
    """A field's name, with what it may be."""
    words = choices(config, field)
    return f"`{field}` ({', '.join(words)})" if words else f"`{field}`"


def in_order(modalities: Iterable[str]) -> str:
    """Modalities, always in one order."""
    return ", ".join(sorted(modalities, key=ORDER.index))


def cell(text: str) -> str:
    """Text as it may stand in a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def family_table(families: dict[str, type[EmbedderConfig]]) -> str:
    """Every family: what it embeds, what it needs, what can be set beyond what all have."""
    common = {"pooling", *TorchConfig.model_fields}
    rows = []
    for name, config in families.items():
        common_here = common - ({"dim"} if config.model_fields["dim"].default else set())  # a setting in `hashing`
        fields = [field for field in config.model_fields if field not in common_here]
        own = [*(field for field in FIRST if field in fields), *(field for field in fields if field not in FIRST)]
        rows.append(
            [
                f"[`{name}`](embedders.md#{name})",
                in_order(config.modalities),
                f"`{config.extra}`" if config.extra else "none",
                config.covers,
                poolings(config) or ("the model's own" if "model" in fields else "none"),
                ", ".join(setting(config, field) for field in own),
            ]
        )
    return table(["family", "modalities", "extra", "covers", "pooling", "further settings"], rows)


def preset_table() -> str:
    """Every preset: the family, the model and its settings, with the sources of all of it."""
    rows = []
    for name, preset in read_presets().items():
        if name in preset.aliases:
            continue
        settings = dict(preset.settings)
        model = settings.pop("model", "")
        rows.append(
            [
                ", ".join(f"`{word}`" for word in (name, *preset.aliases)),
                f"`{preset.family}`",
                f"`{model}`",
                ", ".join(f"`{field}: {json.dumps(value)}`" for field, value in settings.items()),
                sources_of(preset),
                preset.note,
            ]
        )
    return table(["preset", "family", "model", "settings", "source", "what else to know"], rows)


def sources_of(preset: Preset) -> str:
    """Links to where a preset's facts are written."""
    return ", ".join(f"[{fact}]({url})" for fact, url in preset.sources.items())


class Sources:
    """Files that claims were read from, numbered in the order in which they come up."""

    def __init__(self, peers: dict[str, Peer]) -> None:
        self.peers = peers
        self.known: list[tuple[str, str]] = []

    def claim(self, peer: str, claim: Claim | None) -> str:
        """What a table says of a peer."""
        if claim is None:
            return "not found"
        entries = [(peer, source) for source in claim.sources]
        self.known += [entry for entry in dict.fromkeys(entries) if entry not in self.known]
        numbers = " ".join(f"[{self.known.index(entry) + 1}](#sources)" for entry in dict.fromkeys(entries))
        return f"{claim.covers} {numbers}"

    def listed(self) -> str:
        """All of them, as a numbered list."""
        return "\n".join(
            f"{number}. {self.peers[peer].title} {self.peers[peer].version}: `{source}`"
            for number, (peer, source) in enumerate(self.known, 1)
        )


def ours_of(row: Row, families: dict[str, type[EmbedderConfig]]) -> str:
    """What a table says of us."""
    if row.ours:
        return row.ours
    if row.field:
        having = [name for name, config in families.items() if row.field in config.model_fields]
        lacking = [name for name in families if name not in having]
        few = ", ".join(f"`{name}`" for name in having)
        most = f"all but {', '.join(f'`{name}`' for name in lacking)}" if lacking else "all"
        found = few if len(having) <= len(lacking) else most
    else:
        found = "; ".join(
            f"`{name}`" + (f": {found}" if (found := poolings(families[name])) else "")
            for name in row.families
            if name in families
        )
    if not found:
        return "none"
    named = f"`{row.field}`: {found}" if row.field else found
    return f"{named}; {row.note}" if row.note else named


def comparison_table(first: str, rows: list[Row], families: dict[str, type[EmbedderConfig]], sources: Sources) -> str:
    """Rows side by side."""
    head = [first, "LatentLake", *(peer.title for peer in sources.peers.values())]
    made = [
        [
            row.kind,
            ours_of(row, families),
            *(sources.claim(peer, getattr(row, peer)) for peer in sources.peers),
        ]
        for row in rows
    ]
    return table(head, made)


def what_was_read(peers: dict[str, Peer]) -> str:
    """Which package of each peer was read, and what of it."""
    return "\n".join(f"- [{peer.title} {peer.version}]({peer.package}): {peer.searched}." for peer in peers.values())


def torch_sentence(families: dict[str, type[EmbedderConfig]]) -> str:
    """Which families have the settings of torch."""
    *without, last = [f"`{name}`" for name, config in families.items() if not issubclass(config, TorchConfig)]
    dtypes = ", ".join(choices(TorchConfig, "compute_dtype"))
    return (
        f"Every family has `normalize` and `truncate_dim`, and every one but {', '.join(without)} and {last} has\n"
        f"`compute_dtype` ({dtypes}) and `compile`."
    )


def frameworks_sentence() -> str:
    """Other words for families."""
    words: dict[str, list[str]] = {}
    for modality, names in FRAMEWORKS.items():
        for word, family in names.items():
            words.setdefault(family, []).append(f"`{word}` ({modality})")
    named = "; ".join(f"`{family}`: {', '.join(found)}" for family, found in words.items())
    return f"The [calls of the SDK](sdk.md#embedding-without-a-job) take these words for a family, too: {named}."


def make_page() -> str:
    """docs/models.md."""
    families, comparison = own_families(), read_comparison()
    sources = Sources(comparison.peers)
    models = comparison_table("kind of model", comparison.models, families, sources)
    settings = comparison_table("setting", comparison.settings, families, sources)
    parts = [
        "# Models",
        "<!-- Made by docs/generate_models.py of the families, operators/presets.yaml and docs/models_peers.yaml. -->",
        "Which models there are, by family; their short names; and what others cover. `latentlake models` lists the\n"
        "same families with what is installed on a machine.",
        "## Families",
        torch_sentence(families)
        + "\n[Embedder families](embedders.md) says what each means, and what is read from the model's own files.",
        family_table(families),
        frameworks_sentence(),
        "## Presets",
        "A preset stands for a family, a model and its settings: `{column: minilm, model: minilm}` is a whole entry of\n"
        "a job's `embed`, and further keys change what it says. No revision is pinned: [revisions](job.md#revisions).",
        preset_table(),
        "## Side by side",
        "What the registries of embedders of other projects cover, as their packages say. *Not found* means: not in\n"
        "what was searched:",
        what_was_read(comparison.peers),
        "### Models side by side",
        models,
        "### Settings side by side",
        settings,
        "## Sources",
        "Paths inside the packages named above.",
        sources.listed(),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
