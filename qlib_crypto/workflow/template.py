"""A workflow file to its configuration: Jinja, then YAML, as qrun does, but no variable is silently empty."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.sandbox import SandboxedEnvironment
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from qlib_crypto.errors import ConfigError, hint

_LARGEST = 1_000_000


def variables_of(path: Path) -> list[str]:
    """The names of a workflow's variables, sorted.

    Raises
    ------
    ConfigError
        When the file is missing or its Jinja is wrong.

    """
    environment, text = _read(path)
    return sorted(meta.find_undeclared_variables(environment.parse(text)))


def render(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """The configuration with the variables in their places; types are YAML's.

    Raises
    ------
    ConfigError
        When the file is missing, not YAML or no mapping, when it does not know a variable, or has neither value nor
        default for one.

    """
    environment, text = _read(path)
    known = variables_of(path)
    for name in variables:
        if name not in known:
            raise ConfigError(f"{path} has no variable {name}{hint(name, known)}")
    try:
        rendered = environment.from_string(text).render(variables)
    except UndefinedError as error:
        raise ConfigError(f"{path}: {error.message}; give it a value (NAME=VALUE) or a default in the file") from None
    except TemplateError as error:
        raise ConfigError(f"{path}: {error}; correct the Jinja expression") from None
    try:
        config = YAML(typ="safe", pure=True).load(rendered)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else path
        raise ConfigError(f"{where} is not valid YAML: {' '.join((error.problem or str(error)).split())}") from None
    except YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path} holds no mapping; a workflow begins with qlib_init: and task:")
    return config


def _read(path: Path) -> tuple[Environment, str]:
    if not path.is_file():
        folder = path.parent if path.parent.name == "workflows" else Path("workflows")
        others = [str(p) for p in folder.glob("*.yaml")]
        raise ConfigError(f"workflow {path} does not exist{hint(str(path), others)}")
    if path.stat().st_size > _LARGEST:
        raise ConfigError(f"{path} has {path.stat().st_size:,} bytes, more than a workflow needs; give a workflow file")
    environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    try:
        text = path.read_text(encoding="utf-8")
        environment.parse(text)
    except UnicodeDecodeError:
        raise ConfigError(
            f"{path} is no UTF-8 text; give a workflow file such as workflows/lightgbm_60min.yaml"
        ) from None
    except TemplateSyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: {error.message}; correct the Jinja expression") from None
    return environment, text
