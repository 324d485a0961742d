"""Stage objects: names, boxes and places of objects in the sampled frames (paper 3.2.1).

Routes: the source's own labels; GroundingDINO with names that the source gives, if its weights are configured; else
class-agnostic proposals beside the hand, named "object". Position = median of the point map's valid points in the
box's middle, in the map's own unit; calibration makes it metres.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import polars as pl
from jaxtyping import Float

from ops import contact_sheet, tables
from ops.config import ObjectsConfig
from ops.perception import drawing
from ops.perception.point_clouds import PointMaps
from ops.pipeline import StageContext
from ops.rejects import ClipError, Reason, Reject
from ops.sources.base import Clip
from ops.sources.manifest import clip_rows, read_clip
from ops.store import Report, write_rejects

MIDDLE = 0.5  # ASSUMED: share of the box's width and height looked at; its rim shows what lies behind
PROPOSAL_NAME = "object"
MAX_PICTURES = 8

Box = tuple[str, Float[np.ndarray, " 4"], float]  # name, x0 y0 x1 y1 in pixels, score


def run(context: StageContext) -> Report:
    """objects.parquet and rejects.parquet of a shard."""
    clouds = tables.read("point_clouds", context.input("point_clouds") / "point_clouds.parquet")
    hands = tables.read("mano_fits", context.input("mano_fits") / "mano_fits.parquet")
    no_map = tables.read("rejects", context.input("point_clouds") / "rejects.parquet").filter(pl.col("frame") >= 0)
    rows, pictures, captions = [], [], []
    rejects = [
        Reject(item, Reason.BOX_WITHOUT_DEPTH, frame, detail="no point map of this frame: no object was looked for")
        for item, frame in no_map.select("item", "frame").iter_rows()
    ]
    tasks = [
        (row, clouds.filter(clip_id=row["clip_id"]), hands.filter(clip_id=row["clip_id"]))
        for row in clip_rows(context.input("raw_videos"))
    ]
    arguments = (context.root, context.input("point_clouds"), context.config.objects)
    for frames in context.each_parts(load_finder, arguments, tasks, "clip", _lost):
        for found, dropped, picture in frames:
            rows += found
            rejects += dropped
            if picture and len(pictures) < MAX_PICTURES and (not pictures or picture.spread):
                pictures.append(picture.rgb)
                captions.append(picture.caption)
    table = tables.frame("objects", rows)
    tables.write("objects", table, context.out / "objects.parquet")
    report = Report(rows={"objects": table.height})
    write_rejects(context.out, rejects, report)
    if table.height:
        names = table.group_by("name").len("boxes").sort("boxes", "name", descending=[True, False]).head(30)
        report.tables = {"names": names.to_dicts()}
        report.metrics = {"objects_per_frame": table.height / clouds.height}
        contact_sheet.sheet(pictures, captions, context.out / "objects.png")
        report.pictures["objects"] = "objects.png"
    return report


@dataclass(frozen=True)
class Picture:
    """A frame with its boxes that may be shown. spread: it is one of those spread through the shard."""

    rgb: np.ndarray
    caption: str
    spread: bool


Task = tuple[
    dict, pl.DataFrame, pl.DataFrame
]  # row of clips.parquet; rows of point_clouds.parquet, of mano_fits.parquet
Part = tuple[list[dict], list[Reject], Picture | None]  # of a frame


def load_finder(root: Path, point_clouds: Path, config: ObjectsConfig) -> Callable[[Task], Iterator[Part]]:
    """What a worker does with a clip, frame by frame; it loads the model once."""
    detector = GroundingDino(Path(config.grounding_dino)) if config.grounding_dino else None

    def find(task: Task) -> Iterator[Part]:
        row, clouds, hands = task
        clip, first = read_clip(row, root), True
        try:
            with PointMaps(point_clouds) as maps:
                for cloud, rgb, boxes, route in clip_boxes(clip, clouds, hands, config, detector):
                    found, dropped = _locate(clip, cloud, boxes, route, maps.read(cloud["index"])[0])
                    picture, spread = None, cloud["index"] % 5 == 3
                    if found and (first or spread):
                        caption = f"{clip.clip_id} {cloud['time_s']:.1f} s ({route})"
                        named = [(name, box) for name, box, _ in boxes]
                        picture, first = Picture(drawing.boxes(rgb, named), caption, spread), False
                    yield found, dropped, picture
        except ClipError as error:
            yield [], [error.reject(clip.clip_id)], None

    return find


def _lost(task: Task, why: str) -> list[Part]:
    return [([], [Reject(task[0]["clip_id"], Reason.CRASHED_WORKER, detail=why)], None)]


def clip_boxes(
    clip: Clip, clouds: pl.DataFrame, hands: pl.DataFrame, config: ObjectsConfig, detector: "GroundingDino | None"
) -> Iterator[tuple[dict, np.ndarray, list[Box], str]]:
    """(row of point_clouds, rgb, boxes, route) for each frame of a clip that has a point map."""
    frames = clouds["frame"].to_list()
    labelled = any(thing.visible.any() for thing in clip.objects)  # a source may know poses of a thing, but no box
    route = "labels" if labelled else "grounding_dino" if detector and clip.object_names else "proposal"
    for cloud, frame in zip(clouds.to_dicts(), clip.frames(frames) if frames else (), strict=True):
        if route == "labels":
            boxes = [(o.name, o.boxes_px[frame.index], 1.0) for o in clip.objects if o.visible[frame.index]]
        elif route == "grounding_dino":
            boxes = detector.boxes(frame.rgb, clip.object_names)
        else:
            joints = hands.filter(frame=frame.index)["joints_px"].to_numpy().reshape(-1, 21, 2)
            boxes = proposals(frame.rgb, joints, config.max_proposals)
        yield cloud, frame.rgb, boxes, route


def proposals(rgb: np.ndarray, hands_px: Float[np.ndarray, "n 21 2"], limit: int) -> list[Box]:
    """Boxes of uniformly coloured regions beside the fingers, nearest first; none without a hand.

    ASSUMED: what a hand handles is a region of one colour, smaller than 15% of the image, not part of the hand. This
    is a stand-in without weights: it finds plain objects and misses patterned ones. score = 1 / (1 + distance to the
    nearest fingertip / hand length).
    """
    if not len(hands_px) or not np.isfinite(hands_px).all():
        return []
    height, width = rgb.shape[:2]
    shrink = 240 / max(height, width)
    small = cv2.resize(rgb, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    flat = cv2.pyrMeanShiftFiltering(small, 8, 16)
    hulls = np.zeros(small.shape[:2], np.uint8)
    for joints in hands_px:
        cv2.fillConvexPoly(hulls, cv2.convexHull((joints * shrink).round().astype(np.int32)), 1)
    tips = hands_px[:, [4, 8, 12, 16, 20]].reshape(-1, 2) * shrink
    length = float(np.linalg.norm(hands_px[:, 12] - hands_px[:, 0], axis=1).mean() * shrink)
    found = []
    for mask in _regions(flat):
        area = int(mask.sum())
        if not 0.002 * mask.size < area < 0.15 * mask.size or hulls[mask > 0].mean() > 0.3:
            continue
        v, u = np.nonzero(mask)
        distance = float(np.linalg.norm(np.c_[u, v][:, None] - tips, axis=2).min())
        if distance < length:
            box = np.array([u.min(), v.min(), u.max() + 1, v.max() + 1]) / shrink
            found.append((PROPOSAL_NAME, box, 1 / (1 + distance / max(length, 1.0))))
    return sorted(found, key=lambda box: -box[2])[:limit]


def _regions(flat: np.ndarray) -> Iterator[np.ndarray]:
    """Connected regions of like colour of a mean-shifted image, as masks."""
    done = np.zeros((flat.shape[0] + 2, flat.shape[1] + 2), np.uint8)
    for v in range(2, flat.shape[0], 4):
        for u in range(2, flat.shape[1], 4):
            if not done[v + 1, u + 1]:
                before = done.copy()
                cv2.floodFill(flat, done, (u, v), 0, (4, 4, 4), (4, 4, 4), 4 | cv2.FLOODFILL_MASK_ONLY | (1 << 8))
                yield (done - before)[1:-1, 1:-1]


def box_position(points: Float[np.ndarray, "h w 3"], box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " 3"] | None:
    """Median of the valid points in the middle of a box given in the map's pixels; None where there is none."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * MIDDLE
    (u0, v0), (u1, v1) = np.maximum(centre - half, 0).astype(int), np.ceil(centre + half).astype(int)
    inside = points[v0 : max(v1, v0 + 1), u0 : max(u1, u0 + 1)].reshape(-1, 3)
    valid = inside[np.isfinite(inside[:, 2]) & (inside[:, 2] > 0)]
    return np.median(valid, axis=0) if len(valid) else None


def _locate(
    clip: Clip, cloud: dict, boxes: list[Box], route: str, points: np.ndarray
) -> tuple[list[dict], list[Reject]]:
    if not boxes:
        return [], [Reject(clip.clip_id, Reason.NO_OBJECT, cloud["frame"], detail=f"route {route}")]
    rows, rejects = [], []
    shrink = np.tile([cloud["map_width"] / clip.camera.width, cloud["map_height"] / clip.camera.height], 2)
    for name, box, score in boxes:
        position = box_position(points, box * shrink)
        if position is None:
            rejects.append(Reject(clip.clip_id, Reason.BOX_WITHOUT_DEPTH, cloud["frame"], detail=name))
            continue
        frame = {key: cloud[key] for key in ("clip_id", "frame", "time_s")}
        rows.append(frame | {"name": name, "box_px": box, "score": score, "route": route, "position_map": position})
    return rows, rejects


class GroundingDino:
    """Open-vocabulary boxes by transformers' GroundingDINO from a local folder (IDEA-Research/grounding-dino-tiny)."""

    BOX_THRESHOLD, TEXT_THRESHOLD = 0.35, 0.25  # the model's own defaults

    def __init__(self, folder: Path) -> None:
        """Raises FileNotFoundError saying what is missing."""
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"no GroundingDINO weights in {folder}: put the files of IDEA-Research/grounding-dino-tiny there "
                "(config.json, model.safetensors, tokenizer.json), or set objects.grounding_dino to null"
            )
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection, GroundingDinoProcessor
        from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
            GroundingDinoImageProcessorPil,
        )

        self._model = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
        self._processor = GroundingDinoProcessor(
            GroundingDinoImageProcessorPil(), AutoTokenizer.from_pretrained(folder)
        )

    def boxes(self, rgb: np.ndarray, names: tuple[str, ...]) -> list[Box]:
        import torch

        text = " . ".join(name.lower() for name in names) + " ."
        inputs = self._processor(images=rgb, text=text, return_tensors="pt")
        with torch.no_grad():
            outputs = self._model(**inputs)
        found = self._processor.post_process_grounded_object_detection(
            outputs, inputs.input_ids, self.BOX_THRESHOLD, self.TEXT_THRESHOLD, target_sizes=[rgb.shape[:2]]
        )[0]
        return [
            (name, box.numpy().astype(float), float(score))
            for label, box, score in zip(found["text_labels"], found["boxes"], found["scores"], strict=True)
            if (name := named(label, names)) is not None
        ]


def named(label: str, names: tuple[str, ...]) -> str | None:
    """The given name that shares most words with the model's phrase (which may be part of one, or of two)."""
    said = set(label.lower().replace(".", " ").split())
    shared = {name: len(said & set(name.lower().split())) for name in names}
    best = max(shared, key=shared.get, default=None)
    return best if best is not None and shared[best] else None
