"""Commands of `hand3d` around lineage and the model registry: lineage, uses, versions, rollback, checkout, gc."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ops.stages import BY_NAME


def add(commands, command: Callable[..., argparse.ArgumentParser]) -> None:
    """command: makes a subcommand with the options that all have."""
    lineage = command(commands, "lineage", _lineage, "what stands behind an artefact: content, videos, code, params")
    lineage.add_argument("stage", nargs="?", default="champion", choices=list(BY_NAME), metavar="STAGE")
    lineage.add_argument("--shard", default="", help="a key of shards in params.yaml")
    lineage.add_argument("--version", type=int, help="of the registered policy (default: the champion)")
    uses = command(
        commands, "uses", _uses, "what must go if a video goes: rows, checkpoints, scores, registered versions"
    )
    uses.add_argument("video", help="a clip_id, a video's path, the begin of its sha256, or subject:NAME")
    command(commands, "versions", _versions, "registered policies, their gate, aliases and what happened to them")
    rollback = command(commands, "rollback", _rollback, "move the alias champion back to an earlier champion")
    rollback.add_argument("--to", type=int, metavar="VERSION", help="default: the champion before the present one")
    rollback.add_argument("--reason", required=True, help="kept with the version that is taken out")
    checkout = command(commands, "checkout", _checkout, "what a registered version was made from, as files")
    checkout.add_argument("version", type=int, help="of the registered policy")
    checkout.add_argument("folder", type=Path, help="new or empty")
    checkout.add_argument("--stage", action="append", default=[], choices=list(BY_NAME), help="only these (repeatable)")
    gc = command(
        commands, "gc", _gc, "old artefacts in DVC's cache that nothing refers to, registered versions included"
    )
    gc.add_argument("--delete", action="store_true", help="remove them (default: only say what would go)")
    gc.add_argument("--remote", default="", metavar="NAME", help="in this DVC remote instead of the cache")
    gc.add_argument(
        "--give-up", action="append", default=[], metavar="MODEL/N", help="a version whose inputs may go (repeatable)"
    )


def _lineage(options: argparse.Namespace) -> None:
    from ops import lineage_record
    from ops.data_version import address

    root, name = options.root.resolve(), address(options.stage, options.shard)
    version = _champion(root) if options.version is None and options.stage == "champion" else options.version
    record = _of_version(root, version) if version is not None else lineage_record.collect(root, name)
    if not record.lock:
        raise FileNotFoundError(f"dvc.lock records no {options.stage}: run `hand3d run {options.stage}` first")
    print("\n\n".join("\n".join(f"{key:>12}: {value}" for key, value in row.items() if value) for row in record.rows()))
    print("\nlicences")
    for row in lineage_record.licences(record.clips):
        print(f"  {row['source']}: {row['licence']} ({row['clips']} clips; forbids {row['forbids'] or 'nothing'})")
    print("\nvideos: clip, split, participant, sha256 of the video, of its labels, file")
    for row in record.clips.sort("shard", "clip_id").iter_rows(named=True):
        labels = (row["side_sha256"] or "none")[:10]
        print(
            f"  {row['clip_id']:<32} {row['split']:<6} {row['subject'] or '-':<10} {row['sha256'][:10]} {labels:<10} {row['video']}"
        )
    for gap in record.gaps:
        print(f"not known: {gap}")


def _champion(root: Path) -> int | None:
    """Version behind the alias, of the registry if there is one."""
    from ops import tracking

    if not tracking.exists(root):
        return None
    with tracking.readable(root):
        return tracking.get_alias(root, _model(root), "champion")


def _of_version(root: Path, version: int):
    from ops import data_version, lineage_record, tracking

    model = _model(root)
    with tracking.readable(root):
        tags = tracking.version_tags(root, model, version)
        alias = ", ".join(name for name, number in tracking.aliases(root, model).items() if number == version)
        record = lineage_record.of_version(root, model, version)
    print(
        f"{model} version {version} {f'({alias})' if alias else ''} gate {tags.get('gate', 'not judged')}, code {tags.get('git_commit', 'unknown')[:10]}\n"
    )
    if record is not None:
        return record
    if tags.get("dvc_md5") == data_version.recorded_version(root, lineage_record.POLICY):
        return lineage_record.collect(root)  # registered without a record, and dvc.lock still describes it
    raise ValueError(
        f"version {version} was registered without a record of its lineage, and dvc.lock describes another"
    )


def _uses(options: argparse.Namespace) -> None:
    from ops import tracking, withdrawal

    root = options.root.resolve()
    model, asked = _model(root), tracking.exists(root)
    found = withdrawal.clips(root, options.video, withdrawal.kept_clips(root, model) if asked else [])
    for row in found.iter_rows(named=True):
        gone = "" if row["now"] else "  (no longer in raw_videos)"
        print(f"{row['clip_id']}  shard {row['shard']}  {row['video']}  sha256 {row['sha256'][:10]}{gone}")
    for use in withdrawal.uses(root, found):
        print(f"  {use.artefact:<40} {use.how}" + (f": {use.rows:,} of {use.of:,}" if use.of else ""))
    for item in withdrawal.registered(root, model, found) if asked else []:
        print(f"  registered version {item.version:<21} {item.used} {item.aliases}".rstrip())


def _versions(options: argparse.Namespace) -> None:
    from ops import tracking
    from ops.evaluation import registry

    root = options.root.resolve()
    model = _model(root)
    with tracking.readable(root):
        aliases = tracking.aliases(root, model)
        for version in tracking.versions(root, model):
            tags = tracking.version_tags(root, model, version)
            marks = " ".join(name for name, number in aliases.items() if number == version)
            score = f"{tags['score_name']} {float(tags['score_mean']):.3f}" if "score_mean" in tags else "no score"
            out = f"rolled back: {tags[registry.WITHDRAWN]}" if registry.WITHDRAWN in tags else ""
            print(f"{model} {version:>3}  {tags.get('gate', '-'):<8} {score:<16} {marks} {out}".rstrip())
        for event in registry.events(root, model):
            print(
                f"{event.at[:19]}  {event.kind:<12} version {event.version}  champion {event.before} -> {event.after}  {event.by}: {event.reason}"
            )


def _rollback(options: argparse.Namespace) -> None:
    from ops import tracking
    from ops.evaluation import registry

    root = options.root.resolve()
    with tracking.readable(root):
        event = registry.rollback(root, _model(root), options.reason, options.to)
    print(f"champion of {_model(root)}: version {event.before or 'none'} -> {event.after}")


def _checkout(options: argparse.Namespace) -> None:
    from ops import lineage_record, tracking

    root = options.root.resolve()
    with tracking.readable(root):
        record = lineage_record.of_version(root, _model(root), options.version)
    if record is None:
        raise ValueError(f"version {options.version} was registered without a record of its lineage")
    for address in lineage_record.restore(root, record, options.folder.resolve(), options.stage):
        print(address)


def _gc(options: argparse.Namespace) -> None:
    from ops import garbage

    plan = garbage.collect(options.root.resolve(), options.remote, options.delete, options.give_up)
    print(
        f"kept for {len(plan.kept.versions)} registered versions ({', '.join(plan.kept.versions) or 'none'}) and the workspace: {plan.num_kept:,} objects"
    )
    size = (
        f", {plan.num_bytes / 1e6:,.1f} MB ({plan.freed / 1e6:,.1f} MB of it shared with no file)"
        if plan.place == "cache"
        else ""
    )
    print(
        f"{'removed' if options.delete else 'would be removed'} from {plan.place}: {plan.num_removed:,} objects{size}"
    )
    if plan.num_removed and not options.delete:
        print("nothing was removed; --delete does it")


def _model(root: Path) -> str:
    from ops import config

    return config.load(root / "params.yaml").champion.model_name
