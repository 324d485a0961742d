"""Which joints can be seen, and why not (paper 3.2.1: frames whose hand lies outside the view are dropped)."""

from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ops.geometry.camera import PinholeCamera

# ASSUMED: a joint lies up to about 15 mm below the skin, so only a surface well in front of it hides it.
OCCLUSION_MARGIN_M = 0.03


class Visibility(IntEnum):
    """Of one joint in one frame. OCCLUDED is only ever said where a metric depth was there to tell."""

    VISIBLE = 0
    BEHIND_CAMERA = 1
    OUTSIDE_IMAGE = 2
    OCCLUDED = 3
    NOT_TRACKED = 4


def classify(
    joints_cam: Float[np.ndarray, "n 21 3"],
    joints_px: Float[np.ndarray, "n 21 2"],
    camera: PinholeCamera,
    surface_m: Float[np.ndarray, "n 21"] | None = None,
) -> UInt8[np.ndarray, "n 21"]:
    """Visibility of each joint. surface_m: depth of what is seen at the joint's pixel, m, NaN where unknown."""
    reason = np.full(joints_cam.shape[:2], Visibility.VISIBLE, np.uint8)
    if surface_m is not None:
        hidden = joints_cam[..., 2] > surface_m + OCCLUSION_MARGIN_M  # False for NaN
        reason[hidden] = Visibility.OCCLUDED
    reason[~camera.contains(joints_px)] = Visibility.OUTSIDE_IMAGE
    reason[joints_cam[..., 2] <= 0] = Visibility.BEHIND_CAMERA
    reason[~np.isfinite(joints_cam).all(axis=-1)] = Visibility.NOT_TRACKED
    return reason


def at_pixels(image: Float[np.ndarray, "h w"], px: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    """Values at continuous pixel positions (index = floor); NaN outside the image or for NaN positions."""
    height, width = image.shape[:2]
    with np.errstate(invalid="ignore"):
        inside = (px >= 0).all(-1) & (px[..., 0] < width) & (px[..., 1] < height)
    index = np.where(inside[..., None], px, 0).astype(int)
    values = image[index[..., 1], index[..., 0]].astype(np.float64)
    values[~inside] = np.nan
    return values


def seen(visibility: UInt8[np.ndarray, "*n 21"]) -> Bool[np.ndarray, "*n 21"]:
    return visibility == Visibility.VISIBLE
