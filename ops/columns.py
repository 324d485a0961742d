"""Which column upstream a table's column is copied or computed from: the catalogue's column lineage, in one place.

Only what the values come from is named. What a stage reads from video, side file or point map anew (times, licences,
depth), what merely chooses rows, and what it draws by a hash has no column behind it. For a stage of several tables its
first one is meant, as in the catalogue (ops/checks.py TABLES); upstream any of its tables.
"""

from ops.tables import SCHEMAS

Sources = dict[str, tuple[str, ...]]
_CAMERA = tuple(f"raw_videos.{name}" for name in ("fx", "fy", "cx", "cy", "width", "height"))
_OF_CLIP = ("clip_id", "source", "split", "intrinsics")  # read back from the row by ops.sources.manifest.read_clip
_OF_MAP = ("clip_id", "frame", "time_s")
_HANDS = ("mano_fits.joints_cam", "mano_fits.tau")
_PLACES = (*_HANDS, "calibrated_point_clouds.position_cam")
_DEPTHS = (
    *("mano_fits.joints_cam", "mano_fits.joints_px", "mano_fits.visibility"),
    *("point_clouds.index", "point_clouds.map_width", "point_clouds.map_height"),
    *("raw_videos.width", "raw_videos.height"),
)


def _same(stage: str, columns: tuple[str, ...]) -> Sources:
    return {column: (f"{stage}.{column}",) for column in columns}


def _from(sources: tuple[str, ...], *columns: str) -> Sources:
    return dict.fromkeys(columns, sources)


# stage -> column -> "stage.column" upstream
COLUMN_SOURCES: dict[str, Sources] = {
    "mano_fits": {
        **_same("raw_videos", ("clip_id",)),
        **_from(_CAMERA, "joints_px", "visibility"),
        "hand_model": ("raw_videos.hand_model",),
    },
    "point_clouds": {
        **_same("raw_videos", ("clip_id",)),
        **_from(("raw_videos.width", "raw_videos.height"), "map_width", "map_height"),
    },
    "objects": {
        **_same("point_clouds", _OF_MAP),
        **_from(("mano_fits.joints_px",), "box_px", "score"),  # of proposals: regions beside a hand
        "position_map": ("point_clouds.index", "point_clouds.map_width", "point_clouds.map_height"),
    },
    "calibrated_point_clouds": {
        **_same("point_clouds", _OF_MAP),
        **_from(_DEPTHS, "scale", "num_omega", "spread"),
    },
    "hand3d_visual": {
        **_same("raw_videos", _OF_CLIP),
        **_same("calibrated_point_clouds", ("scale", "spread", "num_omega")),
        **_from(("mano_fits.side",), "side"),
        **_from(("calibrated_point_clouds.name",), "object"),
        **_from(_HANDS, "start"),
        **_from(_PLACES, "vector", "distance_m", "direction"),
        **_from((*_PLACES, "mano_fits.side", "calibrated_point_clouds.name"), "question", "answer"),
    },
    "hand3d_action": {
        **_same("raw_videos", _OF_CLIP),
        **_from(("mano_fits.tau",), "waypoints", "displacement_m", "num_clipped", "context_tokens", "target_tokens"),
    },
    "hand3d_test": _same("hand3d_visual", tuple(SCHEMAS["visual_rows"].columns)),
}
