"""What the typed classes of the API are made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

DURATION = r"^([0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h)){1,4}$"  # as Go writes them

Duration = Annotated[str, Field(min_length=2, max_length=40, pattern=DURATION)]


class Rule(BaseModel):
    """A CEL rule of the CRD (`x-kubernetes-validations`)."""

    rule: str
    message: str


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """The schema extra that carries CEL rules, from (rule, message) pairs."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


class Model(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )
