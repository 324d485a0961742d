"""Why something was left out. Every stage rejects with one of these reasons, keeps the reject and counts it.

A reject is never silent: it becomes a row of ``rejects.parquet`` beside the stage's output and a count in
``report.json``. Reasons are stable strings, since users filter and alert on them.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Reason(StrEnum):
    # files
    CORRUPT_VIDEO = "corrupt_video"
    EMPTY_VIDEO = "empty_video"
    DUPLICATE_NAME = "duplicate_name"
    MISSING_SIDE_FILE = "missing_side_file"
    BAD_SIDE_FILE = "bad_side_file"
    NAN_LABEL = "nan_label"
    BAD_LABEL = "bad_label"
    MISSING_LABELS = "missing_labels"
    MISSING_HAND_MODEL = "missing_hand_model"
    FRAME_COUNT_MISMATCH = "frame_count_mismatch"
    KNOWN_BAD_CLIP = "known_bad_clip"
    CRASHED_WORKER = "crashed_worker"
    UNSUPPORTED_CAMERA = "unsupported_camera"
    # hands
    NO_HAND_DETECTED = "no_hand_detected"
    HAND_OUTSIDE_VIEW = "hand_outside_view"
    HIGH_REPROJECTION_ERROR = "high_reprojection_error"
    FIT_RESIDUAL_TOO_HIGH = "fit_residual_too_high"
    HAND_NOT_CONFIRMED = "hand_not_confirmed"
    HAND_IDENTITY_AMBIGUOUS = "hand_identity_ambiguous"
    # geometry
    DEPTH_NONE_STATIC_CAMERA = "depth_none_static_camera"
    DEPTH_MISSING = "depth_missing"
    TOO_FEW_MATCHES = "too_few_matches"
    BASELINE_TOO_SMALL = "baseline_too_small"
    NO_CAMERA_POSE = "no_camera_pose"
    TOO_FEW_SCALE_JOINTS = "too_few_scale_joints"
    SCALE_SPREAD_TOO_LARGE = "scale_spread_too_large"
    NO_OBJECT = "no_object"
    BOX_WITHOUT_DEPTH = "box_without_depth"
    NOT_CALIBRATED = "not_calibrated"
    BEHIND_CAMERA = "behind_camera"
    # rows
    NO_INSTRUCTION = "no_instruction"
    TARGET_REACHED = "target_reached"
    INSIGNIFICANT_MOTION = "insignificant_motion"
    CHUNK_TOO_SHORT = "chunk_too_short"
    HAND_GAP = "hand_gap"
    HANDS_TOO_FAR_APART = "hands_too_far_apart"
    OUTSIDE_TOKEN_RANGE = "outside_token_range"
    SAMPLED_OUT = "sampled_out"
    # robots
    DEMONSTRATION_FAILED = "demonstration_failed"


@dataclass(frozen=True)
class Reject:
    """One thing left out.

    item: clip id, row id or path; frame: frame index or -1; side: "left", "right" or "".
    """

    item: str
    reason: Reason
    frame: int = -1
    side: str = ""
    detail: str = ""

    def row(self) -> dict[str, object]:
        return asdict(self) | {"reason": str(self.reason)}


class ClipError(Exception):
    """A video or its side file cannot be used; the reader's way to say so, caught and counted by every stage.

    reason: why. detail: what was found, what is allowed, what to do. frame, side: where, if it is one place.
    """

    def __init__(self, reason: Reason, detail: str, frame: int = -1, side: str = ""):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.frame, self.side = reason, detail, frame, side

    def __reduce__(self) -> tuple:
        return ClipError, (self.reason, self.detail, self.frame, self.side)  # it may come from another process

    def reject(self, item: str) -> Reject:
        return Reject(item, self.reason, self.frame, self.side, self.detail)
