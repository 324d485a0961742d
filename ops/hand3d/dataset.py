"""Stage hand3d_dataset: Hand3D as people train on it, and a report on how good it is (paper 3.2.1, Tables 1 and 2).

Reads the rows of all shards and writes Parquet, conversations, WebDataset, LeRobot v3, a dataset card and quality.html.
Works shard by shard in the scratch folder, so an interrupted release goes on where it stopped; the finished pieces are
linked into place. Equal inputs and settings give equal bytes.
"""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import polars as pl
import yaml

from ops.hand3d import quality
from ops.hand3d.release import card, frames, parts, trajectories, write
from ops.hand3d.release.card import Release
from ops.hand3d.release.frames import PackedFrames
from ops.hand3d.release.parts import Part
from ops.lerobot import writer as lerobot_writer
from ops.pipeline import StageContext
from ops.rejects import ClipError, Reason, Reject
from ops.sources.manifest import read_clip
from ops.store import Report, write_rejects


def run(context: StageContext) -> Report:
    """Write the release; rejects are clips whose frames could not be read and hands too short for an episode."""
    config, shards = context.config.hand3d_dataset, list(context.config.shards)
    clips = frames.with_rights(frames.read_clips_table(context.input("raw_videos"), shards), config)
    release = Release(config, clips)
    rows = parts.list_parts(context.input("hand3d_visual"), context.input("hand3d_action"), context.input("hand3d_test"), shards)  # fmt: skip
    rows, chosen = parts.choose(rows, context.input("hand3d_visual"), context.input("hand3d_action"), clips, context.config, context.scratch)  # fmt: skip
    rejects = _frames(context, release, rows)
    for part in context.progress(rows, unit="part"):
        _rows(context, release, part)
    rejects += _trajectories(context, release)
    _metas(release, context.out)
    write.write_clips(clips, context.out / "parquet" / "clips.parquet")
    release.routes = _routes([context.input("mano_fits") / shard / "mano_fits.parquet" for shard in shards])
    report = Report(rows=_counts(release))
    report.notes += chosen
    write_rejects(context.out, rejects, report)
    quality.write(context, release, report)
    card.write(release, context.out)
    report.metrics |= _sizes(context.out)
    return report


def _frames(context: StageContext, release: Release, rows: list[Part]) -> list[Reject]:
    """Pack the frames of every shard, where a format holds them. Clips that cannot be read are rejects."""
    config = release.config
    if not (config.conversations or config.webdataset):
        return []

    def packed(shard: str) -> tuple[Path, dict]:
        clips = release.clips.filter(shard=shard)
        shown = [part for part in rows if part.shard in (shard, "all")]

        def pack(folder: Path) -> dict:
            needed = frames.wanted([part.rows() for part in shown], clips["clip_id"])
            return frames.pack(folder, shard, clips, needed, context.root, config)

        key = [[part.stamp() for part in shown], clips.to_dicts(), asdict(config)]
        return parts.once(context.scratch, f"frames-{shard}", key, pack)

    shards = list(context.config.shards)
    with ThreadPoolExecutor(frames.DECODERS) as pool:
        made = context.progress(pool.map(packed, shards), len(shards), "frame shard")
        for shard, (folder, facts) in zip(shards, made, strict=True):
            release.frames[shard] = facts
            if config.conversations and (folder / "frames").is_dir():
                parts.link_tree(folder / "frames", context.out / "frames")
    unreadable = {clip: why for facts in release.frames.values() for clip, why in facts["unreadable"].items()}
    return [Reject(clip, Reason.CORRUPT_VIDEO, detail=why) for clip, why in sorted(unreadable.items())]


def _rows(context: StageContext, release: Release, part: Part) -> None:
    shards = list(context.config.shards) if part.shard == "all" else [part.shard]
    clips = release.clips.filter(pl.col("shard").is_in(shards))
    packed = [context.scratch / f"frames-{shard}" for shard in shards] if release.frames else []
    key = [part.stamp(), clips.to_dicts(), asdict(release.config), release.frames]

    def make(folder: Path) -> dict:
        return write.write_part(part, folder, clips, PackedFrames(packed) if packed else None, release.config)

    folder, facts = parts.once(context.scratch, part.name, key, make)
    parts.link_tree(folder, context.out)
    release.parts[part] = facts
    release.totals.add(part.kind, facts["tally"])


def _trajectories(context: StageContext, release: Release) -> list[Reject]:
    config, rejects = release.config, []
    for shard in context.progress(list(context.config.shards), unit="trajectory shard") if config.lerobot else []:
        clips = release.clips.filter(shard=shard)
        inputs = [context.input("hand3d_action") / shard / "action_rows.parquet", context.input("mano_fits") / shard / "mano_fits.parquet"]  # fmt: skip
        key = [parts.stamp(*inputs), clips.to_dicts(), asdict(config), context.config.hand3d_action.max_gap_s]

        def make(folder: Path, shard=shard, clips=clips, inputs=inputs) -> dict:
            return _write_trajectories(context, folder / "lerobot" / shard, clips, *inputs)

        folder, facts = parts.once(context.scratch, f"lerobot-{shard}", key, make)
        parts.link_tree(folder, context.out)
        rejects += [
            Reject(clip, Reason(reason), side=side, detail=why) for clip, reason, side, why in facts["rejected"]
        ]
        if facts["episodes"]:
            release.trajectories[shard] = facts
    return rejects


def _write_trajectories(context: StageContext, folder: Path, clips: pl.DataFrame, action: Path, fits: Path) -> dict:
    """One LeRobot data set of a shard. Images only if every clip with an episode may be shown: a set has one layout."""
    config, gap_s = context.config.hand3d_dataset, context.config.hand3d_action.max_gap_s
    spans = trajectories.spans(action)
    known = {row["clip_id"]: row for row in clips.iter_rows(named=True)}
    images = config.trajectory_image_edge > 0 and all(known[span.clip_id]["frames_allowed"] for span in spans)
    steps, rejected, sources = Counter(), [], []

    def each():
        clip, seen = None, None
        for span in spans:
            try:
                if clip is None or clip.clip_id != span.clip_id:
                    clip = read_clip(known[span.clip_id], context.root)
                    seen = pl.scan_parquet(fits).filter(clip_id=span.clip_id).collect()
                made = list(trajectories.episodes(clip, span, seen, config.trajectory_fps, gap_s, config.trajectory_image_edge, images))  # fmt: skip
            except ClipError as error:
                rejected.append((span.clip_id, str(error.reason), span.side, error.detail))
                continue
            if not made:
                why = f"chunk {span.chunk}: fewer than {trajectories.MIN_STEPS} steps in a row"
                rejected.append((span.clip_id, str(Reason.CHUNK_TOO_SHORT), span.side, why))
            for episode in made:
                steps["episodes"] += 1
                steps["steps"] += len(episode.frames)
                sources.append((episode.clip_id, episode.side, span.chunk, int(episode.frames[0]), images))
                yield episode

    if spans:
        episodes = each()
        first = next(episodes, None)
        if first is not None:
            lerobot_writer.write(folder, chain([first], episodes), config.trajectory_fps, "video" if images else "image", trajectories.LAYOUT)  # fmt: skip
            trajectories.write_sources(sources, clips, folder / frames.EPISODE_SOURCES)
    return {"episodes": steps["episodes"], "steps": steps["steps"], "images": images, "rejected": rejected}


def _metas(release: Release, out: Path) -> None:
    """What InternVL's and LLaVA's trainers are pointed at: the training files of each shard."""
    train = [
        (p, facts["with_frames"]) for p, facts in release.parts.items() if p.split == "train" and facts["with_frames"]
    ]
    if not release.config.conversations or not train:
        return
    internvl = {
        f"hand3d-{part.name}": {
            "root": "images/", "annotation": f"conversations/internvl/{part.name}.jsonl", "data_augment": False,
            "max_dynamic_patch": 1, "repeat_time": 1, "length": count,
        }
        for part, count in train
    }  # fmt: skip
    (out / "conversations" / "internvl" / "meta.json").write_text(json.dumps(internvl, indent=1), encoding="utf-8")
    llava = [{"json_path": f"conversations/llava/{part.name}.json", "sampling_strategy": "all"} for part, _ in train]
    (out / "conversations" / "llava" / "data.yaml").write_text(yaml.safe_dump({"datasets": llava}), encoding="utf-8")


def _routes(paths: list[Path]) -> Counter:
    """Hands a route of labelling, over all shards."""
    counts: Counter = Counter()
    for path in paths:
        counts.update(dict(pl.scan_parquet(path).group_by("route").len().collect().iter_rows()))
    return counts


def _counts(release: Release) -> dict[str, int]:
    counts = {
        "rows": release.rows,
        "visual_rows": release.totals.kinds["visual"],
        "action_rows": release.totals.kinds["action"],
    }
    counts |= {"rows_with_frames": release.rows_with_frames, "clips": len(release.used_clips)}
    return counts | {"episodes": sum(facts["episodes"] for facts in release.trajectories.values())}


def _sizes(out: Path) -> dict[str, float]:
    """Megabytes of each format."""
    folders = [folder for folder in sorted(out.iterdir()) if folder.is_dir()]
    return {f"{f.name}_mb": sum(p.stat().st_size for p in f.rglob("*") if p.is_file()) / 1e6 for f in folders}
