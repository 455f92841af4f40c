"""YAML in, objects out: the only module that knows Hydra.

A node with a `_target_` names the class that it describes; there is no list of classes anywhere, so a class in a user's
own package is as good as ours. What Hydra would answer with a traceback or an invitation to add the typo is answered
here with the nearest name.
"""

from __future__ import annotations

import difflib
import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from hwtrain.errors import ConfigError, HwtrainError, RecordError, nearest

CHANGEABLE_ON_RESUME = ("budget.", "evaluate.every", "recorder.checkpoint_seconds", "recorder.report")


def conf_dir() -> Path:
    """The configuration folder: inside an installed package, beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else inside.parent.parent / "conf"


def run_each(job: Callable[[DictConfig], None]) -> None:
    """Compose from the command line and call `job`, once or for each point of a sweep.

    Raises:
        ConfigError: whatever is wrong with the command line or a YAML file, as one message.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except HwtrainError:
        raise
    except MissingConfigException as error:
        raise ConfigError(_unknown_choice(error)) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"a YAML file cannot be read: {_one_line(error)}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from error
    except (TypeError, ValueError) as error:
        if "flag can only be used" in str(error):
            raise ConfigError(_one_line(error)) from error
        if not Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(Path(hydra.__file__).parent):
            raise  # from within a run
        raise ConfigError(
            "a word was given null, a number or a list on the command line. Name one of its choices, or leave an "
            "optional word out with ~, as in ~tuned. Keys follow a dot, as in network.sizes=[2,2,1]."
        ) from error
    except OSError as error:
        if error.errno is None:  # of what reads YAML
            raise ConfigError(f"a YAML file must hold keys with values: {error}") from error
        raise RecordError(
            f"the run folder cannot be made: {error}. Choose another with hydra.run.dir=FOLDER."
        ) from error


def choices() -> tuple[str, ...]:
    """The words of this run that have a choice, for its title: algo, device, task."""
    chosen = HydraConfig.get().runtime.choices
    return tuple(str(chosen[name]) for name in ("algo", "device", "task"))


def words() -> list[str]:
    """What the command line sets in this run; of a sweep, in this point of it."""
    return list(HydraConfig.get().overrides.task)


def own_file(name: str) -> str:
    """Where a file of a configuration folder is: `${own:NAME}` in a YAML file, so that both may be moved together.

    Raises:
        ConfigError: none of the folders that the command line names holds it.
    """
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is None:
        raise ConfigError(f"no configuration folder holds {name!r}. Name the folder that does with --config-dir")
    return str(found.absolute())


OmegaConf.register_new_resolver("own", own_file, replace=True)


def resolve(config: DictConfig) -> DictConfig:
    """The configuration with all references filled in, checked for unknown keys and missing values."""
    for word in words() if HydraConfig.initialized() else ():
        group, _, choice = word.partition("=")
        if group == "tuned" and choice not in (options := _options(group)):  # which Hydra leaves out, being optional
            raise ConfigError(f"{word} is unknown. {nearest(choice, options)}")
    try:
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise ConfigError(f"{missing[0]} is needed and has no default. Say {missing[0]}=...")
        plain = OmegaConf.to_container(config, resolve=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is needed and has no default. Say {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from error
    resolved = OmegaConf.create(plain)
    assert isinstance(resolved, DictConfig)
    _check_keys(resolved)
    return resolved


def resumed(arguments: Sequence[str]) -> tuple[Path, DictConfig]:
    """The configuration of the run to go on with, from `resume=FOLDER` and budget settings.

    Raises:
        ConfigError: another setting was given, which would change what the run has been so far.
        RecordError: the folder holds no run.
    """
    folder = Path(next(argument for argument in arguments if argument.startswith("resume=")).removeprefix("resume="))
    path = folder / "config.yaml"
    try:
        config = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise RecordError(f"resume: {folder} is not a run folder: it holds no config.yaml") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise RecordError(f"resume: {path} cannot be read: {_one_line(error)}") from error
    if not isinstance(config, DictConfig) or not {"algo", "device", "task", "budget", "recorder"} <= {*config}:
        raise RecordError(f"resume: {path} is damaged: it is not the configuration of a run. Start the run anew.")
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "resume":
            continue
        if not key.startswith(CHANGEABLE_ON_RESUME):
            raise ConfigError(
                f"{argument}: a resumed run keeps its settings; only {', '.join(CHANGEABLE_ON_RESUME)} may change. "
                "Start a new run for anything else."
            )
        if OmegaConf.select(config, key, default=_ABSENT) is _ABSENT:
            raise ConfigError(f"unknown key {key!r}. {nearest(key, _keys(OmegaConf.to_container(config)))}")
        try:
            OmegaConf.update(config, key, yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"{argument} cannot be read: {_one_line(error)}") from error
    config.recorder.folder = str(folder)
    return folder, config


def build(node: Any, **more: Any) -> Any:
    """The object that a node with a `_target_` describes.

    Raises:
        ConfigError: the class cannot be found, or refuses its arguments.
    """
    try:
        return instantiate(node, **more, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, HwtrainError | MemoryError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from error
        raise ConfigError(
            _one_line(error).replace("set env var HYDRA_FULL_ERROR=1 to see chained exception.", "")
        ) from error


_ABSENT = object()


def _check_keys(config: DictConfig) -> None:
    """Refuse keys that nothing reads: at the top those config.yaml does not name, below those no constructor takes."""
    primary = yaml.safe_load((conf_dir() / "config.yaml").read_text())
    groups = [entry.split(":")[0] for entry in primary["defaults"] if isinstance(entry, str)]
    groups += [word.split(" ")[-1] for entry in primary["defaults"] if isinstance(entry, dict) for word in entry]
    known = {key for key in (*primary, *groups) if "/" not in key} - {
        "defaults",
        "hydra",
        "_self_",
        "tuned",
        "experiment",
    }
    for key in config:
        if key not in known:
            raise ConfigError(f"unknown key {str(key)!r}. {nearest(str(key), known)}")
    for path, node in _nodes(config, ""):
        if "_target_" not in node:
            continue
        try:
            parameters = inspect.signature(get_object(node["_target_"])).parameters
        except (ImportError, AttributeError, TypeError, ValueError, HydraException) as error:
            raise ConfigError(f"{path}._target_: {node['_target_']!r} cannot be found: {_one_line(error)}") from error
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        for key in map(str, node):
            word = key if path in ("algo", "device") and key in groups else f"{path}.{key}".replace(".", "/")
            chosen = isinstance(node[key], DictConfig | None) or not node["_target_"].startswith("hwtrain.")
            if not chosen and (options := _options(word)):
                raise ConfigError(f"{path}.{key} is chosen by {word}=CHOICE. {nearest(str(node[key]), options)}")
            if not key.startswith("_") and key not in parameters:
                if path == "network" and not any(word.startswith(f"network.{key}=") for word in sys.argv):
                    raise ConfigError(
                        f"algo={choices()[0]} sets network.{key}, which {node['_target_']} does not take. Choose "
                        "network=mlp, or another algo."
                    )
                raise ConfigError(f"unknown key {f'{path}.{key}'!r}. {nearest(key, parameters)}")


def _options(word: str) -> list[str]:
    """The choices of a word; none where it is not one."""
    return [file.stem for folder in (conf_dir(), *own_folders()) for file in (folder / word).glob("*.yaml")]


def _nodes(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    if isinstance(node, DictConfig):
        yield path, node
        for key in node:
            yield from _nodes(node[key], f"{path}.{key!s}".lstrip("."))
    elif isinstance(node, ListConfig):
        for index, item in enumerate(node):
            yield from _nodes(item, f"{path}[{index}]")


def _keys(node: Any, path: str = "") -> list[str]:
    """All dotted keys of nested plain containers."""
    if not isinstance(node, dict):
        return []
    keys = [f"{path}.{key!s}".lstrip(".") for key in node]
    return keys + [inner for key, below in zip(keys, node.values(), strict=True) for inner in _keys(below, key)]


def _unknown_choice(error: MissingConfigException) -> str:
    name, options = str(error.missing_cfg_file or ""), list(error.options or [])
    group, _, choice = name.rpartition("/")
    if not options:
        return _one_line(error)
    hint = nearest(choice, options)
    every = "" if hint.startswith("Known") else f" Known: {', '.join(sorted(options))}."
    return f"{group}={choice} is unknown. {hint}{every}"


def _explain(error: Exception) -> str:
    """Hydra's message, or ours within it; with the nearest key instead of the advice to add a new one."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override} cannot be read. Write key=value; a list is [1,2], and text with spaces, brackets, =, ; "
            "or letters outside ASCII is quoted twice, as in \"key='a text'\"."
        )
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(found.group(1).split("@")[0])
    if found := re.search(r"^ConfigError raised while resolving interpolation: (.*)\s+full_key: (\S+)", text):
        return f"{found[2]}: {found[1]}"
    return _one_line(error)


def _unknown_key(key: str) -> str:
    folders = [conf_dir(), *own_folders()]
    groups = [path.relative_to(folder).as_posix() for folder in folders for path in folder.rglob("*") if path.is_dir()]
    words = [word for word in sys.argv[1:] if re.match(r"^[\w/@.]+=[\w,-]+$", word) and word.split("=")[0] in groups]
    words += search(folders[1:])
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(folders[0])):
            known = _keys(OmegaConf.to_container(compose("config", overrides=words)))
    except (HydraException, OmegaConfBaseException):
        known = []
    known += groups
    if key in groups:
        return f"{key}=... has nothing to choose here: what is chosen for {key.split('/')[0]} takes none"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}?" if close else "`python -m hwtrain --help` shows all keys."
    return f"unknown key {key!r}. {hint}"


def own_folders() -> list[Path]:
    """The user's configuration folders on the command line."""
    found = []
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        if word in ("--config-dir", "-cd"):
            found.append(Path(following).absolute())
        elif word.startswith("--config-dir="):
            found.append(Path(word.partition("=")[2]).absolute())
    return [folder for folder in found if folder.is_dir()]


def search(folders: Sequence[Path]) -> list[str]:
    """What else to say for configuration folders beside that of `--config-dir`."""
    quoted = [json.dumps(f"file://{folder}", ensure_ascii=False) for folder in folders]
    return [f"hydra.searchpath=[{','.join(quoted)}]"] if quoted else []


def _one_line(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())
