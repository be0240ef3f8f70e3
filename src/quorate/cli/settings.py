"""The options of `up` from where they may stand: a TOML file, the environment, flags, in rising order.

Here: names and order. Not here: defaults; those belong to the fleet (`local.shape`).
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from quorate.errors import BadInput
from quorate.local.shape import Wanted
from quorate.logs import Format, Level


class UpSettings(BaseSettings):
    """`QUORATE_NODES`, `QUORATE_THRESHOLD`, … in the environment; `nodes = 5`, … in the file."""

    model_config = SettingsConfigDict(env_prefix="QUORATE_", extra="forbid", env_ignore_empty=True)

    nodes: int | None = None
    threshold: int | None = None
    port: int | None = None
    region: str | None = None
    account: str | None = None
    log_format: Format | None = None
    log_level: Level | None = None


def read_settings(file: Path | None, flags: dict[str, Any]) -> Wanted:
    """`flags` that are None do not count. Raises `BadInput` for an unknown or a wrong setting."""

    class FromFile(UpSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            if file is None:
                return init_settings, env_settings
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    try:
        got = FromFile(**{name: value for name, value in flags.items() if value is not None})
    except (ValidationError, ValueError) as why:
        where = f" ({file}, QUORATE_* or flags)" if file else " (QUORATE_* or flags)"
        told = why.errors()[0] if isinstance(why, ValidationError) else {"loc": ("file",), "msg": str(why)}
        name = ".".join(str(part) for part in told["loc"])
        raise BadInput(
            f"setting {name}{where}: {told['msg']}",
            remedy="the settings are nodes, threshold, port, region, account, log_format and log_level",
        ) from why
    return Wanted(**got.model_dump(mode="json"))
