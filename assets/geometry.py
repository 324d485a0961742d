"""Depth, objects and metric scale."""

from assets.factory import Described

GROUP = "geometry"

ASSETS = (
    Described(
        "point_clouds",
        ("numpy", "parquet"),
        """A point map for each sampled frame (1 a second). One row a frame that has one; the map lies in point_maps.npz: a 3D
point in camera axes for each pixel and a confidence. Sensor depth where the source has it, two views where the camera
moves, CUT3R with its weights. A static camera without depth gives no map: rejected and counted, never filled in.""",
    ),
    Described(
        "objects",
        ("parquet",),
        """Objects a hand may act on. One row an object in a sampled frame: name, box (pixels), score, and its position in the
point map's own scale. Names come from labels; where there are none, boxes near the hand are proposals without a
name.""",
    ),
    Described(
        "calibrated_point_clouds",
        ("parquet",),
        """Metric scale of each point map, s = median(j_z / jhat_z) over Omega, the hand joints that are visible and have a
valid depth (VIPA-VLA 3.2.1). One row a frame: s, size of Omega, spread of the ratios (share of s); beside it object
positions in metres. Frames with too few joints or too large a spread are rejects.""",
    ),
)
