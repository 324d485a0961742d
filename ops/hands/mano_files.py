"""Reading hand models in MANO's format without running anything that stands in the file.

MANO's licensed files are Python 2 pickles that hold chumpy objects and a sparse matrix. A pickle is a program, so it
is read by an unpickler that knows numpy's and SciPy's array constructors and replaces chumpy by inert stubs; any
other name in the file is refused.
"""

import functools
import pickle
import zipfile
from pathlib import Path

import numpy as np
import scipy.sparse

from ops import safe_pickle

SHAPES = {
    "v_template": (778, 3),
    "shapedirs": (778, 3, 10),
    "posedirs": (778, 3, 135),
    "J_regressor": (16, 778),
    "weights": (778, 16),
    "hands_mean": (45,),
    "hands_components": (45, 45),
    "f": (1538, 3),
}
ALSO_KEPT = ("kintree_table",)  # where a file has them


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a hand model (.npz or .pkl) by MANO's names.

    Raises ValueError for a file that is damaged, of another model, or asks to import anything but arrays.
    """
    path = Path(path)
    data = _read_npz(path) if path.suffix == ".npz" else _read_pickle(path)
    for key, shape in SHAPES.items():
        if key not in data:
            raise ValueError(f"{path}: no {key!r}; a MANO file has {', '.join(SHAPES)}")
        found = np.shape(data[key])
        enough = found[:2] == shape[:2] and found[2] >= 10 if key == "shapedirs" and len(found) == 3 else found == shape
        if not enough:
            raise ValueError(f"{path}: {key} has shape {found}, a MANO file has {shape}")
        if not np.isfinite(np.asarray(data[key], dtype=np.float64)).all():
            raise ValueError(f"{path}: {key} holds values that are not finite")
    return data


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npz of plain arrays ({error}); fetch or convert it again") from error


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    content = safe_pickle.load(path, _ManoUnpickler)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, a MANO file holds a dict")
    return {str(key): _to_array(value) for key, value in content.items() if key in SHAPES or key in ALSO_KEPT}


class _Chumpy:
    """Stands for any chumpy object: keeps its state, does nothing."""

    def __init__(self, *_: object) -> None:
        self.state: dict[str, object] = {}

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


class _ManoUnpickler(safe_pickle.ArraysUnpickler):
    """Knows sparse matrices and chumpy stubs besides arrays."""

    def find_class(self, module: str, name: str) -> object:
        if module == "chumpy" or module.startswith("chumpy."):
            return _Chumpy
        if module in ("scipy.sparse.csc", "scipy.sparse._csc", "scipy.sparse") and name in ("csc_matrix", "csc_array"):
            return getattr(scipy.sparse, name)
        if (module, name) in (("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor")):
            return functools.partial(_reconstruct_stub)
        if module in ("__builtin__", "builtins") and name == "object":
            return object
        return super().find_class(module, name)


def _reconstruct_stub(kind: type, base: type, state: object) -> object:
    """Protocol 0/1 objects of Python 2; only stubs and sparse matrices are made this way."""
    if kind not in (_Chumpy, scipy.sparse.csc_matrix) or base is not object:
        raise safe_pickle.RefusedError(f"refused: reconstruction of {kind}")
    return object.__new__(kind)


def _to_array(value: object) -> np.ndarray:
    if scipy.sparse.issparse(value):
        return value.toarray()
    if isinstance(value, _Chumpy):
        return _chumpy_to_array(value)
    return np.asarray(value)


def _chumpy_to_array(stub: _Chumpy) -> np.ndarray:
    """A constant (state ``x``) or a selection (``a``, ``idxs``, ``preferred_shape``) or reshaping of one."""
    if "x" in stub.state:
        return _to_array(stub.state["x"])
    if "a" in stub.state and "idxs" in stub.state:
        picked = _to_array(stub.state["a"]).ravel()[np.asarray(stub.state["idxs"])]
        return picked.reshape(stub.state.get("preferred_shape", picked.shape))
    if "a" in stub.state and "newshape" in stub.state:
        return _to_array(stub.state["a"]).reshape(stub.state["newshape"])
    raise ValueError(f"chumpy object with {sorted(stub.state)}: only constants, selections and reshapings can be read")
