"""The machines of a cluster that a profile describes: its head, its groups of workers, the storage that all of them see."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"  # DNS-1035, as Kubernetes takes for the name of a service
OBJECT = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"  # DNS-1123, as it takes for the names of most objects
LABEL_REMEDY = "use lower-case letters, digits and '-', beginning with a letter and ending with a letter or digit"


class Part(BaseModel):
    """A section of a cluster profile. What is wrong may be a key, so that errors do not show it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Toleration(Part):
    """Lets the pods of a group onto nodes with a taint; as Kubernetes has it, in the spelling of these files."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="before")
    @classmethod
    def with_operator(cls, data: Any) -> Any:
        """A value is to be equal, where nothing else is said."""
        if isinstance(data, dict) and data.get("value") is not None:
            return {"operator": "Equal", **data}
        return data

    @model_validator(mode="after")
    def check(self) -> Toleration:
        """Kubernetes refuses a value beside Exists, and tolerates everything where there is no key."""
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("`operator: Exists` takes no value; leave one of them out")
        if self.key is None and self.operator == "Equal":
            raise ValueError("name the `key` of the taint")
        return self


class Machine(Part):
    """One machine, or pod: what it offers, what it costs, and where it may stand."""

    cpus: int = Field(default=2, ge=1)
    memory_mb: int = Field(default=8192, ge=512)
    image: str | None = Field(default=None, min_length=1)
    price_per_hour: float | None = Field(default=None, ge=0)
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    instance_type: str | None = Field(default=None, min_length=1)


class HeadNode(Machine):
    """The machine of the head: it runs Ray's own processes and the job's driver, and no actors."""


class WorkerGroup(Machine):
    """Equal machines, from `min` to `max` of them; each offers `cpus`, `gpus` and `memory_mb`. `idle_s`: one that had nothing to do for so long goes."""

    name: str = Field(max_length=40)
    gpus: int = Field(default=0, ge=0)
    accelerator: str | None = Field(default=None, min_length=1)
    spot: bool = False
    min: int = Field(default=0, ge=0)
    max: int = Field(default=1, ge=1, le=10_000)
    idle_s: int = Field(default=120, ge=1)

    @model_validator(mode="after")
    def check(self) -> WorkerGroup:
        """Names that a cluster takes, and numbers that agree."""
        if not re.fullmatch(LABEL, self.name):
            raise ValueError(f"name {self.name!r}: {LABEL_REMEDY}")
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max {self.max}; min is at most max")
        if self.accelerator is not None and not self.gpus:
            raise ValueError(f"accelerator is {self.accelerator!r}, and the group has no gpus; state them")
        return self


class SharedStorage(Part):
    """A folder that every machine of the cluster sees. On Kubernetes `claim` is the PersistentVolumeClaim that is mounted there; without one the image has the folder."""

    path: str
    claim: str | None = Field(default=None, max_length=253)

    @model_validator(mode="after")
    def check(self) -> SharedStorage:
        """A folder by its whole path; what stands in an object store is shared anyway."""
        if not self.path.startswith("/") or self.path.rstrip("/") == "" or ".." in self.path.split("/"):
            raise ValueError(
                f"path {self.path!r}: give the whole path of a folder that all machines see, such as /mnt/lake"
            )
        return self


def as_storage(value: Any) -> Any:
    """A path alone is a storage of that path."""
    return {"path": value} if isinstance(value, str) else value


Shared = Annotated[SharedStorage, BeforeValidator(as_storage)]
