"""JSON values against their schemas: each schema is itself checked once, which takes far longer than a value does."""

from __future__ import annotations

import functools
import json
from typing import Any

from jsonschema.validators import validator_for


def validate(value: Any, schema: Any) -> None:
    """Raises `jsonschema.ValidationError`, and `jsonschema.SchemaError` for a schema that is none."""
    _validator(json.dumps(schema)).validate(value)


@functools.cache
def _validator(text: str) -> Any:
    schema = json.loads(text)
    cls = validator_for(schema)
    cls.check_schema(schema)
    return cls(schema)
