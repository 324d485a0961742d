"""The hand models that a clip's MANO labels belong to."""

from functools import lru_cache
from pathlib import Path

from ops.hands.conventions import fix_left_shape, mirror_model
from ops.hands.mano import HandModel, load_models
from ops.sources.base import Clip

LEFT_MODELS = ("own", "fixed", "mirrored")


def models_of(clip: Clip, standin: Path) -> dict[str, HandModel]:
    """By side. standin: folder of the models of clips without MANO files of their own. Raises as load_models does."""
    return _models(clip.hand_model or standin, clip.left_model)


@lru_cache(maxsize=8)
def _models(folder: Path, left_model: str) -> dict[str, HandModel]:
    models = load_models(folder)
    if left_model == "own":
        return models
    if left_model == "fixed":
        return models | {"left": fix_left_shape(models["left"], models["right"])}
    if left_model == "mirrored":
        return models | {"left": mirror_model(models["right"])}
    raise ValueError(f"left_model is one of {', '.join(LEFT_MODELS)}, got {left_model!r}")
