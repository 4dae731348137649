"""From YAML to the classes of a configuration, strictly, and back to its canonical form."""

import hashlib
import json
import pathlib
from functools import cache
from typing import Any, get_args

import yaml
from cattrs import Converter, transform_error
from cattrs.strategies import configure_tagged_union
from cattrs.v import format_exception

from experiments.config.distillation import Knowledge
from experiments.config.experiment import AnyStage, Experiment, Stage
from experiments.config.models import Model
from experiments.config.table import Table
from experiments.config.techniques import Single, Technique
from jaxcompress.paths import did_you_mean


def load_table(path: str | pathlib.Path, overrides: tuple[str, ...] = ()) -> Table:
    """Reads a table from YAML after applying `overrides` such as ``experiments.*.data.limit=2000``.

    Where an experiment (or a teacher, or a source) is a string it is the path of another YAML file, relative to this
    one. Raises ValueError, naming file and key, for anything that does not fit the classes above.
    """
    document = _read(pathlib.Path(path))
    for override in overrides:
        _override(document, override)
    table = structure(document, Table, str(path))
    for row in table.rows:
        if row.experiment not in table.experiments:
            known = list(table.experiments)
            raise ValueError(f"{path}: row {row.row!r} is of experiment {row.experiment!r}; there are {known}")
        try:
            table.experiments[row.experiment].until(row.stage)
        except ValueError as error:
            raise ValueError(f"{path}: row {row.row!r}: {error}") from error
    return table


def structure(document: Any, cls: Any, source: str) -> Any:
    """Turns plain YAML types into a class of this module; raises ValueError that names `source` and the keys."""
    _check_types(document, source)
    try:
        return _converter().structure(document, cls)
    except Exception as error:  # cattrs raises groups of many kinds; all of them mean that the document does not fit
        raise ValueError(
            "\n  ".join([f"{source}:", *transform_error(error, path="config", format_exception=_explained)])
        ) from error


def to_plain(config: Any) -> Any:
    """Turns a configuration into plain YAML types, leaving defaults out: its canonical form."""
    return _converter().unstructure(config)


def fingerprint(experiment: Experiment) -> str:
    """Returns twelve hexadecimal digits that name an experiment: the SHA-256 of its canonical form."""
    text = json.dumps(to_plain(experiment), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, omit_if_default=True)
    converter.register_structure_hook(float, lambda value, _: _number(value))
    converter.register_structure_hook(int, lambda value, _: _exactly(value, int))
    converter.register_structure_hook(bool, lambda value, _: _exactly(value, bool))
    converter.register_structure_hook(str, lambda value, _: _exactly(value, str))
    for union in (Model, Single, Technique, Knowledge):
        configure_tagged_union(union, converter, tag_name="type")
    configure_tagged_union(AnyStage, converter, tag_name="type", default=Stage)
    converter.register_unstructure_hook(AnyStage, _plain_stage)
    return converter


def _plain_stage(stage: AnyStage) -> dict[str, Any]:
    """Leaves the type out of the plain form of a stage that trains, as of all defaults."""
    plain = _converter().unstructure(stage, type(stage))
    return plain if isinstance(stage, Stage) else plain | {"type": type(stage).__name__}


def _number(value: Any) -> float:
    if isinstance(value, str):  # YAML 1.1 reads 1e-3, without a point, as text
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{value!r} is not of type {kind.__name__}")
    return value


def _explained(error: BaseException, kind: Any) -> str:
    """Adds to cattrs' words those of the checks of this module."""
    words = format_exception(error, kind)
    return f"{words}: {error}" if type(error) is ValueError else words


def _check_types(document: Any, source: str) -> None:
    """Refuses an unknown ``type:`` before cattrs, which would only print the tag."""
    known = [cls.__name__ for union in (Model, Technique, AnyStage, Knowledge) for cls in get_args(union)]
    if isinstance(document, dict):
        name = document.get("type")
        if name is not None and name not in known:
            raise ValueError(f"{source}: unknown type {name!r}{did_you_mean(str(name), known)}; there are {known}")
        for key, value in document.items():
            if not isinstance(key, str):
                raise ValueError(f"{source}: the key {key!r} is not text")
            _check_types(value, f"{source}: {key}")
    if isinstance(document, list):
        for value in document:
            _check_types(value, source)


def _read(path: pathlib.Path, above: tuple[pathlib.Path, ...] = ()) -> Any:
    """Reads a YAML file and the files that it names, `above` being those that name it."""
    if path.resolve() in above:
        raise ValueError(f"{path}: includes itself")
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    return _included(document, path.parent, (*above, path.resolve()))


def _included(document: Any, folder: pathlib.Path, above: tuple[pathlib.Path, ...]) -> Any:
    """Replaces the file name of an experiment, of a teacher, alone or in an ensemble, or of a source by its content."""

    def visit(value: Any) -> Any:
        return _included(value, folder, above)

    def named(value: Any) -> Any:
        return _read(folder / value, above) if _is_file(value) else visit(value)

    if isinstance(document, list):
        return [visit(value) for value in document]
    if not isinstance(document, dict):
        return document
    filled = {key: named(value) if key in ("teacher", "source") else visit(value) for key, value in document.items()}
    if isinstance(document.get("ensemble"), list):
        filled["ensemble"] = [named(value) for value in document["ensemble"]]
    if isinstance(document.get("experiments"), dict):
        filled["experiments"] = {name: named(value) for name, value in document["experiments"].items()}
    return filled


def _is_file(value: Any) -> bool:
    """Tells a file's name from that of a teacher's layer, which stands under the same key."""
    return isinstance(value, str) and value.endswith((".yaml", ".yml"))


def _override(document: Any, override: str) -> None:
    path, sign, text = override.partition("=")
    if not sign:
        raise ValueError(f"--set {override!r} is not of the form a.b=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {override!r}: {text!r} is not YAML: {error}") from error
    *parents, last = path.split(".")
    places = [document]
    for key in parents:
        places = [child for place in places for child in _children(place, key)]
    hit = False
    for place in places:
        for key in _keys(place, last):
            place[key] = value
            hit = True
    if not hit:
        raise ValueError(f"--set {override!r} names nothing in the config")


def _children(place: Any, key: str) -> list[Any]:
    if isinstance(place, list):
        named = [item for item in place if isinstance(item, dict) and item.get("name") == key]
        return list(place) if key == "*" else named
    if isinstance(place, dict):
        return list(place.values()) if key == "*" else [place[key]] if key in place else []
    return []


def _keys(place: Any, key: str) -> list[Any]:
    if not isinstance(place, dict):
        return []
    return list(place) if key == "*" else [key]
