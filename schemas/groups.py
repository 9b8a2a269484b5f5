"""Models that belong together, or never run at the same time."""

from enum import StrEnum

from schemas.base import Record, check_model_name, check_token


class GroupKind(StrEnum):
    """The constraint of a group."""

    APART = "apart"
    """At most one of them runs at a time."""
    TOGETHER = "together"
    """Starting one starts all of them, and they are stopped together."""


class ModelGroup(Record):
    """A rule about several models, by their names."""

    name: str
    kind: GroupKind
    models: tuple[str, ...]

    def __post_init__(self) -> None:
        check_token(self.name)
        for model in self.models:
            check_model_name(model)
        if len(set(self.models)) < 2:
            raise ValueError("a group has at least two different models")


class GroupRef(Record):
    """Which group."""

    name: str


class ListGroups(Record):
    """Lists all groups."""


class GroupList(Record):
    """The groups, by name."""

    groups: tuple[ModelGroup, ...] = ()


class GroupStored(Record):
    """The group was stored or deleted."""

    name: str
