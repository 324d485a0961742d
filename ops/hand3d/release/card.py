"""The dataset card and the checksums: what a stranger needs to use a release rightly, written from what is in it.

The card's front matter lets Hugging Face `datasets` load the Parquet files without a script. SHA256SUMS names every other
file; `sha256sum -c SHA256SUMS` in the release's folder checks them.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import yaml

from ops.config import Hand3DDatasetConfig
from ops.hand3d.release.parts import Part
from ops.hand3d.tally import Totals

SUMS, CARD = "SHA256SUMS", "README.md"
SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))


@dataclass
class Release:
    """What is in a release. clips: with rights and shard. parts: part -> {"rows", "with_frames"}. frames: shard -> facts of
    frames.pack. trajectories: shard -> {"episodes", "steps", "images"}. routes: hand labels a route."""

    config: Hand3DDatasetConfig
    clips: pl.DataFrame
    totals: Totals = field(default_factory=Totals)
    parts: dict[Part, dict] = field(default_factory=dict)
    frames: dict[str, dict] = field(default_factory=dict)
    trajectories: dict[str, dict] = field(default_factory=dict)
    routes: Counter = field(default_factory=Counter)

    @property
    def used_clips(self) -> pl.DataFrame:
        """Clips that have a row."""
        ids = sorted(set().union(*self.totals.clips.values()) if self.totals.clips else set())
        return self.clips.filter(pl.col("clip_id").is_in(ids))

    @property
    def rows(self) -> int:
        return sum(facts["rows"] for facts in self.parts.values())

    @property
    def rows_with_frames(self) -> int:
        return sum(facts["with_frames"] for facts in self.parts.values())


def write(release: Release, folder: Path) -> None:
    """README.md, then SHA256SUMS over everything that lies in the folder."""
    digest = hashlib.sha256(sums(folder).encode()).hexdigest()
    (folder / CARD).write_text(card(release, digest), encoding="utf-8")
    (folder / SUMS).write_text(sums(folder), encoding="utf-8")


def sums(folder: Path) -> str:
    """One line a file, in the form of sha256sum, sorted by path; the list itself and the stage's report are left out."""
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return "".join(f"{_sha256(folder / p)}  {p}\n" for p in paths if p not in (SUMS, "report.json"))


def broken(folder: Path) -> list[str]:
    """Files that are not as SHA256SUMS says: changed, missing, or not listed."""
    listed = dict(line.split("  ", 1)[::-1] for line in (folder / SUMS).read_text(encoding="utf-8").splitlines())
    there = dict(line.split("  ", 1)[::-1] for line in sums(folder).splitlines())
    return sorted(path for path in listed.keys() | there.keys() if listed.get(path) != there.get(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card(release: Release, digest: str) -> str:
    """Markdown with YAML front matter. digest: sha256 over the checksums of all other files."""
    sections = [
        _front(release),
        _head(release),
        _load(release),
        _counts(release),
        _formats(release),
        _licences(release),
    ]
    return "\n".join([*sections, _columns(), _limits(release), _checksums(digest)])


def _front(release: Release) -> str:
    configs = []
    for kind in ("visual", "action"):
        splits = sorted(
            {p.split for p, facts in release.parts.items() if p.kind == kind and facts["rows"]}, reverse=True
        )
        files = [{"split": split, "path": f"parquet/{kind}/{split}-*.parquet"} for split in splits]
        if files:
            configs.append({"config_name": kind, "default": not configs, "data_files": files})
    configs.append({"config_name": "clips", "data_files": "parquet/clips.parquet"})
    size = next((name for limit, name in SIZES if release.rows < limit), "n>10M")
    front = {
        "pretty_name": "Hand3D", "license": "other", "license_name": "by-clip", "language": ["en"],
        "task_categories": ["visual-question-answering", "robotics"], "tags": ["hands", "egocentric", "3d", "vision-language-action"],
        "size_categories": [size], "configs": configs,
    }  # fmt: skip
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n"


def _head(release: Release) -> str:
    visual, action = (release.totals.kinds[kind] for kind in ("visual", "action"))
    clips, config = release.used_clips, release.config
    lines = [
        "# Hand3D",
        f"{visual:,} questions about space (Hand3D-visual) and {action:,} examples of wrist motion (Hand3D-action) from "
        f"{len(clips):,} clips of {clips['source'].n_unique()} sources, made as VIPA-VLA 3.2 describes. Every number is in "
        "metres and radians, in OpenCV camera axes (x right, y down, z forward) of the row's last frame; every row names its "
        "clip, its frames and its licence.",
    ]
    if config.internal_use:
        lines.append(
            "\n> **For internal use only.** This release holds frames of clips whose licence does not allow them to be passed "
            "on (`hand3d_dataset.internal_use`). Do not publish it."
        )
    return "\n".join(lines) + "\n"


def _load(release: Release) -> str:
    lines = [
        "## Load it",
        "```python",
        "from datasets import load_dataset",
        'rows = load_dataset("path/to/this/folder", "visual")  # "action", "clips"; no script is run',
        "```",
    ]
    if release.config.conversations and release.rows_with_frames:
        lines += [
            "Trainers that read images by path need the frames unpacked once:",
            "```bash",
            "mkdir -p images && for t in frames/*.tar; do tar -xf $t -C images; done",
            "```",
            "Then `conversations/internvl/meta.json` is InternVL's meta file (paths relative to this folder), and "
            "`conversations/llava/data.yaml` LLaVA's.",
        ]
    if release.config.webdataset and release.rows_with_frames:
        lines += [
            "```python",
            "import webdataset",
            'samples = webdataset.WebDataset("webdataset/visual-train-SHARD-00000.tar", shardshuffle=False).decode("rgb8")',
            "```",
        ]
    return "\n".join(lines) + "\n"


def _counts(release: Release) -> str:
    rows = [
        {"source": source, "task": task, "split": split, "rows": count, "clips": len(release.totals.clips[source, task, split])}
        for (source, task, split), count in sorted(release.totals.rows.items())
    ]  # fmt: skip
    splits = [
        {"part": kind, "split": split, "rows": sum(f["rows"] for p, f in release.parts.items() if (p.kind, p.split) == (kind, split))}
        for kind in ("visual", "action")
        for split in ("train", "test")
    ]  # fmt: skip
    text = "No clip is in two splits, by name or by the bytes of its video."
    return f"## Splits and counts\n{text}\n\n{markdown(splits)}\n\n{markdown(rows)}\n"


def _formats(release: Release) -> str:
    config, left = release.config, release.rows - release.rows_with_frames
    num_frames = sum(facts["frames"] for facts in release.frames.values())
    rows = [{"format": "Parquet (canonical)", "where": "parquet/", "what": f"{release.rows:,} rows, and every clip"}]
    if config.conversations:
        rows.append({"format": "conversations", "where": "conversations/, frames/", "what": f"{release.rows_with_frames:,} rows; {num_frames:,} frames, longest edge {config.frame_long_edge} px"})  # fmt: skip
    if config.webdataset:
        rows.append({"format": "WebDataset", "where": "webdataset/", "what": f"{release.rows_with_frames:,} rows with their frames, {config.samples_per_tar:,} a tar"})  # fmt: skip
    for shard, facts in release.trajectories.items():
        images = f"{config.trajectory_image_edge} px square images" if facts["images"] else "no images"
        rows.append({"format": "LeRobot v3", "where": f"lerobot/{shard}/", "what": f"{facts['episodes']} episodes, {facts['steps']:,} steps at {config.trajectory_fps:g} a second, {images}"})  # fmt: skip
    text = ""
    if (config.conversations or config.webdataset) and left:
        unreadable = sum(len(facts["unreadable"]) for facts in release.frames.values())
        text = f"\n{left:,} rows are in the Parquet files only: their frames may not be passed on, or could not be read ({unreadable} clips).\n"
    return f"## Formats\n{markdown(rows)}\n{text}"


def _licences(release: Release) -> str:
    terms = ["source", "licence", "noncommercial", "redistributable"]
    table = release.used_clips.group_by(terms).agg(clips=pl.len(), frames_released=pl.col("frames_allowed").all())
    rows = table.sort(terms).to_dicts()
    for row in rows:
        row["frames_released"] = bool(row["frames_released"]) and _has_frames(release.config)
    closed = [row["source"] for row in rows if not row["redistributable"]]
    text = "Each row carries the licence of its clip; a licence that is not known to allow redistribution counts as forbidding it."
    if closed and release.config.internal_use:
        text += f" **Frames of {', '.join(closed)} are here under a declaration of internal use.**"
    elif closed:
        text += (
            f" **Frames of {', '.join(closed)} are left out of every format.** Their rows (text, numbers, frame indices and the "
            "video's sha256) are in the Parquet files: before you publish those, ask their licences, or filter by "
            "`redistributable` in the `clips` table. Who holds the videos can write the frames with `internal_use: true`."
        )
    return f"## Licences\n{text}\n\n{markdown(rows)}\n"


def _has_frames(config: Hand3DDatasetConfig) -> bool:
    return config.conversations or config.webdataset or (config.lerobot and config.trajectory_image_edge > 0)


def _columns() -> str:
    return """## What the columns mean
Visual: `question`, `answer`; behind the answer `vector` (m, camera frame of the last of `frames`), `distance_m` = its length,
`direction` = -1, 0, 1 an axis (+x right, +y down, +z forward), `rotation` (axis-angle, camera movement), `contact`, `scale` of the
calibrated point map. Action: `waypoints` (flat n x 3, m, camera frame of `frame`), `context_tokens` and `target_tokens` (three
a waypoint, 1,024 bins of 1/1024 m from -0.5, -0.5, 0), `num_clipped` waypoints outside that range.
LeRobot: `observation.state` and `action` = wrist position (m), wrist axis-angle, 45 finger axis-angles (MANO, flat hand mean) in
the camera frame of the episode's first step; `observation.T_cam_first` maps it to the step's own camera (row-major 4 x 4).
"""


def _limits(release: Release) -> str:
    assumed = release.used_clips.filter(intrinsics="assumed").height
    made_up = release.used_clips.filter(kind="synthetic").height
    routes = ", ".join(f"{count:,} by {route}" for route, count in sorted(release.routes.items()))
    repeats = "; ".join(
        f"{kind}: {', '.join(f'{count:,} {name}' for name, count in found.items())}"
        for kind, found in sorted(release.totals.repeats.items())
    )
    limits = [
        f"Hands in frames: {routes}. Tracked hands (not labels) are less exact in depth than across the image.",
        f"{assumed} of {len(release.used_clips)} clips have an assumed field of view: their metric scale is a guess.",
        f"{made_up} of {len(release.used_clips)} clips are rendered, not filmed.",
        "Wording comes from grammar templates unless a row says otherwise; numbers never come from a language model.",
        f"Rows that say what an earlier row says ({repeats}): see quality.html.",
        f"{release.totals.waypoints['clipped']:,} of {release.totals.waypoints['all']:,} waypoints lie outside the token range and are clipped.",
    ]
    return "## Known limits\n" + "\n".join(f"- {line}" for line in limits) + "\n"


def _checksums(digest: str) -> str:
    return (
        "## Checksums\n`sha256sum --check SHA256SUMS` in this folder checks every file. sha256 over the checksums of all files "
        f"but this page: `{digest}`.\n"
    )


def markdown(rows: list[dict[str, object]]) -> str:
    """Rows of one shape as a Markdown table."""
    if not rows:
        return "none"
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    cells = [[f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else str(v) for v in line] for line in lines]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in cells)
