"""dvc.lock read and written stage by stage.

DVC parses the whole file to learn one stage and, with a slower parser still, again to change one: 3 s of CPU a commit
at the demo's 4 shards (0.3 MB), a minute at 99. Here a file is cut into stages by its indentation, a stage is parsed when
it is asked for, and a commit puts its own stage's text in the old one's place. The text of a stage comes from DVC's own
serializer, so that the file has the bytes that DVC would have written.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ops.store import write_file

EMPTY = "schema: '2.0'\n"
STAGES = "stages:\n"
BEGINS = re.compile(r"^  (?=\S)", re.MULTILINE)


@cache
def parser() -> type:
    """A parser in C with the rules of YAML 1.2, by which DVC writes and reads: 1e-05 is a number, "on" a word."""
    from ruamel.yaml.resolver import implicit_resolvers

    class Parser(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        yaml_implicit_resolvers: ClassVar[dict] = {}

    for versions, tag, pattern, first in implicit_resolvers:
        if (1, 2) in versions:
            Parser.add_implicit_resolver(tag, pattern, first)
    return Parser


def parsed(text: str) -> Any:
    return yaml.load(text, parser())


class Stages(Mapping):
    """Stage name -> its entry (cmd, deps, params, outs), parsed when it is asked for."""

    def __init__(self, text: str):
        _, self._blocks, _ = split(text)

    def __getitem__(self, name: str) -> dict[str, Any]:
        return parsed(self._blocks[name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)


def split(text: str) -> tuple[str, dict[str, str], str]:
    """(what stands before the stages, name -> text of a stage with its indentation, what stands after them).

    Raises ValueError where that is not the layout DVC writes: then nothing is guessed.
    """
    place = 0 if text.startswith(STAGES) else text.find("\n" + STAGES) + 1
    if not text.startswith(STAGES, place):
        if "\nstages:" in text:
            raise ValueError("dvc.lock: the stages do not stand in block style")
        return text, {}, ""
    head, body = text[: place + len(STAGES)], text[place + len(STAGES) :]
    end = re.search(r"^\S", body, re.MULTILINE)
    body, tail = (body[: end.start()], body[end.start() :]) if end else (body, "")
    starts = [found.start() for found in BEGINS.finditer(body)]
    blocks = {}
    for start, stop in zip(starts, [*starts[1:], len(body)], strict=True):
        blocks[_name(body[start : body.index("\n", start)])] = body[start:stop]
    if body and (not starts or starts[0]):
        raise ValueError("dvc.lock: lines before the first stage")
    return head, blocks, tail


@lru_cache(maxsize=4096)
def _name(line: str) -> str:
    """Of a stage's first line, "  mano_fits@one:", quoted or not."""
    (name,) = parsed(line)
    return str(name)


def replaced(text: str, new: Mapping[str, str]) -> str:
    """The file with these stages' texts in the place of the old ones, or behind the last one."""
    head, blocks, tail = split(text or EMPTY)
    if not head.endswith(STAGES):
        head += STAGES
    return head + "".join((blocks | dict(new)).values()) + tail


def block(name: str, data: Mapping[str, Any]) -> str:
    """A stage's text as DVC writes it. Its dependencies, mostly code that many stages share, are written once each."""
    from dvc.utils.serialize import dumps_yaml

    begin = dumps_yaml({"stages": {name: {key: data[key] for key in list(data)[:1]}}})
    whole = dumps_yaml({"stages": {name: {key: value for key, value in data.items() if key != "deps"}}})
    if list(data)[:2] != ["cmd", "deps"] or not data["deps"] or not whole.startswith(begin):
        return dumps_yaml({"stages": {name: data}}).removeprefix(STAGES)
    deps = "".join(_dependency(tuple(dep.items())) for dep in data["deps"])
    return begin.removeprefix(STAGES) + "    deps:\n" + deps + whole.removeprefix(begin)


@lru_cache(maxsize=4096)
def _dependency(items: tuple[tuple[str, Any], ...]) -> str:
    """Text of a dependency (path, hash, size) where it stands in a stage: lines are folded by their indentation."""
    from dvc.utils.serialize import dumps_yaml

    return dumps_yaml({"stages": {"x": {"deps": [dict(items)]}}}).removeprefix(f"{STAGES}  x:\n    deps:\n")


def _remembering(parse: Callable[[str, str], Any]) -> Callable[..., Any]:
    """A loader of DVC's that parses equal bytes once, and gives copies, which may be changed: four times a commit it asks
    for params.yaml and the defaults."""
    from dvc.utils.serialize._common import _load_data

    @lru_cache(maxsize=8)
    def known(text: str, path: str) -> Any:
        return parse(text, path)

    def load(path: Any, fs: Any = None, **options: Any) -> Any:
        return _load_data(path, parser=lambda text, path: deepcopy(known(text, path)), fs=fs, **options)

    return load


@cache
def install() -> None:
    """Let DVC in this process read and write its lock file so, and read dvc.yaml by the parser in C. Holds for
    dvc==3.67.1, which is pinned; a test compares the bytes with those of an unchanged DVC."""
    from dvc.dvcfile import Lockfile, ProjectFile
    from dvc.exceptions import DvcException
    from dvc.stage import serialize
    from dvc.utils.serialize import LOADERS, parse_py, parse_yaml

    LOADERS |= {".yaml": _remembering(parse_yaml), ".py": _remembering(parse_py)}

    def load(self, **_: Any) -> tuple[dict[str, Any], str]:
        if not self.exists():
            self._check_gitignored()
            return {}, ""
        with self.repo.fs.open(self.path, encoding="utf-8") as file:  # of a commit's files, where DVC looks at one
            text = file.read()
        head, _blocks, tail = split(text)
        rest = parsed(head.removesuffix(STAGES) + tail) or {}
        return {**rest, "stages": Stages(text)}, text

    def dump_stages(self, changed: list, **options: Any) -> None:
        path = Path(self.path)
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        entries = [serialize.to_lockfile(stage, **options) for stage in changed]
        new = {name: block(name, data) for entry in entries for name, data in entry.items()}
        after = replaced(text, new)
        if after != text:
            write_file(path, after.encode())
            self.repo.scm_context.track_file(self.relpath)

    loaded_by_dvc = ProjectFile._load_yaml

    @lru_cache(maxsize=2)
    def validated(text: str, name: str) -> dict[str, Any]:
        return ProjectFile.validate(parsed(text), name)

    def load_yaml(self, **options: Any) -> tuple[dict[str, Any], str]:
        with self.repo.fs.open(self.path, encoding="utf-8") as file:
            text = file.read()
        try:
            return deepcopy(validated(text, self.relpath)), text
        except (yaml.YAMLError, DvcException):
            return loaded_by_dvc(self, **options)  # which says what is wrong and where

    Lockfile._load, Lockfile.dump_stages, ProjectFile._load_yaml = load, dump_stages, load_yaml
