"""The schemas of KubeRay's objects, closed: what they do not know is refused, where the API server would drop it silently."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

KUBERNETES = "1.34"
INT_OR_STRING = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
KEPT = ("type", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "required", "additionalProperties")


class Schemas:
    """The schemas of all kinds that we make: KubeRay's from the definitions in a folder, Kubernetes' own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.of_kind = cache(self._of_kind)

    def faults(self, found: dict[str, Any]) -> list[str]:
        """What the schema of its kind says of an object."""
        if found["apiVersion"].startswith("ray.io/"):
            errors = self.of_kind(found["kind"]).iter_errors(found)
            return [f"{error.json_path}: {error.message[:200]}" for error in errors]
        try:
            kubernetes_validate.validate(found, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as failure:
            return [f"{list(failure.absolute_path)}: {failure.message[:200]}"]
        return []

    def _of_kind(self, kind: str) -> Draft202012Validator:
        with (self.folder / f"ray.io_{kind.lower()}s.yaml").open(encoding="utf-8") as file:
            definition = yaml.load(file, Loader=yaml.CSafeLoader)
        (version,) = (one for one in definition["spec"]["versions"] if one["name"] == "v1")
        return Draft202012Validator(close(version["schema"]["openAPIV3Schema"], top=True))


def close(schema: Any, top: bool = False) -> Any:
    """A schema that refuses fields it does not know, but where it says that it keeps any."""
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return INT_OR_STRING
    made = {key: schema[key] for key in KEPT if key in schema}
    if isinstance(made.get("additionalProperties"), dict):
        made["additionalProperties"] = close(made["additionalProperties"])
    if "items" in schema:
        made["items"] = close(schema["items"])
    if "properties" in schema:
        made["properties"] = {name: close(one) for name, one in schema["properties"].items()}
        if top:  # Kubernetes checks the metadata of an object by itself
            made["properties"]["metadata"] = {"type": "object"}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in made:
            made["additionalProperties"] = False
    return made
