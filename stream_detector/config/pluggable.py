"""Sections that a plug-in may replace by its own: `model` by `kind`, `threshold` by `method`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from stream_detector import plugins
from stream_detector.errors import ConfigError

#: JSON Schema keyword that marks the schema standing for all plug-ins' sections.
PLUG_INS = "x-plug-ins"


@dataclass(frozen=True, slots=True)
class Pluggable:
    """Annotates a section: a name in `key` that is not built in chooses the settings class of a plug-in.

    The class is found by its entry point, derives from `base` and validates the whole section.
    """

    group: plugins.Group
    key: str
    built_in: tuple[str, ...]
    base: type[BaseModel]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate and serialise built-in sections as usual, those of plug-ins by their own class."""
        inner = handler(source)
        return core_schema.no_info_wrap_validator_function(
            self._read,
            inner,
            serialization=core_schema.wrap_serializer_function_ser_schema(self._written, schema=inner),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the built-in sections, or one with any other name in `key` and any keys beside it."""
        noun = plugins.NOUNS[self.group]
        open_section = {
            "type": "object",
            "description": f"Any {noun} that the plug-in of an installed package offers (docs/library.md); "
            "the keys beside this one are the plug-in's own.",
            "properties": {
                self.key: {
                    "type": "string",
                    "not": {"enum": list(self.built_in)},
                    "description": f"Name under which the package offers the {noun}.",
                }
            },
            "required": [self.key],
            PLUG_INS: self.group,
        }
        return {"anyOf": [handler(schema), open_section]}

    def _read(self, value: Any, handler: Callable[[Any], Any]) -> Any:
        if isinstance(value, self.base):
            return value
        name = value.get(self.key) if isinstance(value, Mapping) else None
        if not isinstance(name, str) or name in self.built_in:
            return handler(value)
        return self._settings(name).model_validate(value)

    def _settings(self, name: str) -> type[BaseModel]:
        """Return the settings class of a plug-in. Raises ValueError, beginning with the key, when there is none."""
        try:
            found = plugins.load(self.group, name)
        except KeyError:
            wanted = plugins.expected(self.group, self.built_in)
            raise ValueError(f"{self.key}: got {name!r}, {wanted}") from None
        except ConfigError as error:
            raise ValueError(f"{self.key}: {error}") from error
        fits = isinstance(found, type) and issubclass(found, self.base)
        if not fits or not isinstance(getattr(found, "implemented_by", None), str):
            raise ValueError(
                f"{self.key}: {name!r} of the package {plugins.origin(self.group, name)} is {found!r}, not a subclass "
                f"of {self.base.__name__} with `implemented_by`; report this to its authors"
            )
        settings: type[BaseModel] = found
        return settings

    def _written(self, value: Any, handler: Callable[[Any], Any]) -> Any:
        # the mode doesn't matter: both serialise a section of a YAML file alike
        return value.model_dump(mode="json") if isinstance(value, self.base) else handler(value)


def properties(part: Mapping[str, Any], data: object) -> Mapping[str, Any]:
    """Return the keys that `data` may have under a schema that stands for plug-ins; none when no plug-in is named."""
    if PLUG_INS not in part or not isinstance(data, Mapping):
        return {}
    (key,) = part["required"]
    name = str(data.get(key))
    if name in part["properties"][key]["not"]["enum"]:
        return {}
    try:
        found = plugins.load(part[PLUG_INS], name)
    except (KeyError, ConfigError):
        return {}
    return _properties(found) if isinstance(found, type) and issubclass(found, BaseModel) else {}


@cache
def _properties(settings: type[BaseModel]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = settings.model_json_schema()["properties"]
    return {name: {} if "$ref" in str(member) else member for name, member in found.items()}
