"""What is wrong with a setting, in one line that people understand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from qlib_crypto.errors import hint


def told(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of what is wrong, with the known key that is nearest to an unknown one."""
    first = error.errors()[0]
    *place, name = map(str, first["loc"])
    key = ".".join([*place, name])
    if first["type"] != "extra_forbidden":
        return f"setting {key}: {first['msg'].removeprefix('Value error, ')} (value {first['input']!r})"
    known = _keys(model, place)
    return f"setting {key} is unknown{hint(name.removeprefix('qlib_crypto_'), known)}"  # `.env` keeps the prefix


def _keys(model: type[BaseModel], place: Sequence[str]) -> list[str]:
    """The names of the settings at a place, such as that of `schedule.workflows.0`."""
    part: Any = model
    for name in place:
        if name in part.model_fields:
            part = part.model_fields[name].annotation
            part = (get_args(part) or (part,))[0]
    return list(part.model_fields)
