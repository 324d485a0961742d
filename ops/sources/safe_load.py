"""Label files of data sets, read without running anything that stands in them.

OakInk2 and TACO ship pickles with torch tensors, ARCTIC numpy files that hold a dict, HOI4D pickles of Python 2, DexYCB
YAML with Python tuples. Tensors come back as numpy arrays. Each function raises ClipError: MISSING_LABELS if the file is
not there, BAD_LABEL if it is damaged or asks for anything but data.
"""

import functools
import io
from pathlib import Path

import numpy as np
import yaml

from ops.rejects import ClipError, Reason
from ops.safe_pickle import ArraysUnpickler, RefusedError, load, load_stream

TORCH_DTYPES = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip
ZIP_MAGIC = b"PK\x03\x04"


def load_pickle(path: Path) -> object:
    """Content of a pickle (Python 2 or 3, also with torch tensors) or of a file of torch.save."""
    return _read(path, _load_pickle)


def load_pickle_lazily(path: Path) -> object:
    """As load_pickle, but tensors are read when numpy asks for them: np.asarray(tensor). For files with 100,000 of them.

    np.asarray raises ValueError for a tensor that is damaged.
    """
    return _read(path, lambda path: load(path, _WithLazyTensors))


def load_npy_object(path: Path) -> object:
    """Content of an .npy file: an array, or the very object (mostly a dict) that np.save wrapped in one."""
    return _read(path, _load_npy)


def load_yaml(path: Path) -> object:
    """Content of a YAML file; ``!!python/tuple`` is read, every other tag of Python refused."""
    return _read(path, _load_yaml)


def _read(path: Path, function) -> object:
    try:
        return function(Path(path))
    except FileNotFoundError as error:
        raise ClipError(Reason.MISSING_LABELS, f"{path} is missing") from error
    except (OSError, ValueError, EOFError, yaml.YAMLError) as error:
        detail = str(error) if str(path) in str(error) else f"{path} does not read: {error}"
        raise ClipError(Reason.BAD_LABEL, detail) from error


def _load_pickle(path: Path) -> object:
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            file.seek(0)
            return load_stream(file, path, _WithTensors)
    return _as_arrays(_torch_load(path))


def _load_npy(path: Path) -> object:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in header:
            raise ValueError(f"{path} is an .npy file of version {version}, this reads 1.0 and 2.0")
        shape, _, dtype = header[version](file)
        if not dtype.hasobject:
            return np.load(path, allow_pickle=False)
        array = load_stream(file, path, _WithTensors)
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise ValueError(f"{path} says it holds an array of shape {shape} and does not")
    return array.item() if shape == () else array


def _load_yaml(path: Path) -> object:
    return yaml.load(path.read_text(encoding="utf-8"), _loader())


@functools.cache
def _loader() -> type:
    class WithTuples(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        """Safe YAML that knows tuples."""

    WithTuples.add_constructor(
        "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
    )
    return WithTuples


class _WithTensors(ArraysUnpickler):
    """Rebuilds torch tensors as numpy arrays; torch's own restricted loader reads their bytes."""

    def find_class(self, module: str, name: str) -> object:
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("torch.storage", "_load_from_bytes"): _storage,
            ("torch", "Size"): tuple,
        }
        if (module, name) in known:
            return functools.partial(known[module, name])  # a new object: the file may set attributes on it
        if module == "torch" and name in TORCH_DTYPES:
            return name
        return super().find_class(module, name)


class LazyTensor:
    """A torch tensor of which only the bytes are there until numpy asks for it."""

    def __init__(self, content: bytes | str, *parts: object):
        self._content, self._parts = content, parts

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        try:
            array = _rebuild_tensor(_storage(self._content), *self._parts)
        except (RefusedError, RuntimeError, TypeError) as error:
            raise ValueError(f"damaged tensor: {error}") from error
        return array if dtype is None else array.astype(dtype)


class _WithLazyTensors(_WithTensors):
    """Leaves tensors as LazyTensor."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return functools.partial(_unread)
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return functools.partial(LazyTensor)
        return super().find_class(module, name)


def _unread(content: bytes | str) -> bytes | str:
    return content


def _storage(content: bytes | str) -> object:
    if isinstance(content, str):  # bytes of Python 2
        content = content.encode("latin1")
    return _torch_load(io.BytesIO(content))


def _torch_load(file: Path | io.BytesIO) -> object:
    import pickle

    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(f"torch's restricted loader refuses it: {error}") from error


def _rebuild_tensor(storage: object, offset: int, size: tuple, stride: tuple, *_: object) -> np.ndarray:
    import torch

    if not isinstance(storage, torch.storage.TypedStorage):
        raise RefusedError(f"refused: a tensor of {type(storage).__name__}")
    flat = torch.empty(0, dtype=storage.dtype).set_(storage)
    return _array(flat.as_strided(tuple(size), tuple(stride), offset))  # as_strided stays inside the storage


def _rebuild_parameter(data: object, *_: object) -> object:
    return data


def _array(tensor) -> np.ndarray:
    import torch

    return tensor.detach().to(torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype).numpy().copy()


def _as_arrays(value: object) -> object:
    import torch

    if isinstance(value, torch.Tensor):
        return _array(value)
    if isinstance(value, dict):
        return {key: _as_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_as_arrays(item) for item in value)
    return value
