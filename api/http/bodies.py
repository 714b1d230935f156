"""Request and answer bodies: strict, closed, and written with the types of `crypto.record`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from crypto import record
from crypto.errors import CryptoError

T = TypeVar("T")


class Body(BaseModel):
    """Base of every body. Unknown members are refused; `false` is not the integer 0.

    Strict also means that text is not read as a time, number or enum: write such fields as
    `Wire[datetime]`, `Wire[Fraction]`, `Wire[PartyId]`.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


@dataclass(frozen=True)
class _AsRecord:
    """Reads and writes a member exactly as `crypto.record` does in signed documents."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def read(value: Any) -> Any:
            if isinstance(source, type) and isinstance(value, source) and type(value) is not str:
                return value  # built by us, not parsed
            try:
                return record.from_value(source, value)
            except CryptoError as error:
                raise PydanticCustomError("malformed", "{why}", {"why": str(error)}) from error

        return core_schema.no_info_plain_validator_function(
            read,
            serialization=core_schema.plain_serializer_function_ser_schema(record.to_value),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string"}


Wire = Annotated[T, _AsRecord()]
