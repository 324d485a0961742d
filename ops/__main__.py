"""The console command `hand3d` (= `python -m ops`): every stage, and what is around them.

Exit codes: 0 done; 1 it failed for a reason named on stderr that you can mend; 2 wrong usage; 3 a defect of ours, with
its traceback. Start-up is fast: whatever is heavy is imported by the command that needs it.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ops import registry_commands
from ops.stages import BY_NAME, STAGES

ABOUT = {
    "raw_videos": "list and check a shard's videos",
    "mano_fits": "hands of every frame as MANO, 21 joints in the camera frame",
    "point_clouds": "a point map for each sampled frame",
    "objects": "names, boxes and positions of objects",
    "calibrated_point_clouds": "metric scale of each point map, from the hands in it",
    "hand3d_visual": "question-answer rows: relations, completion, hand and camera movement",
    "hand3d_action": "motion-token rows: instruction, prediction, translation",
    "hand3d_test": "question-answer rows from videos in no training split",
    "hand3d_dataset": "Hand3D as people train on it, with card, checksums and quality report",
    "base_model": "vision-language model and 3-D encoder to start from",
    "stage1_checkpoint": "stage 1: the fusion layer, on hand3d_visual",
    "stage2_checkpoint": "stage 2: fusion and language model, on hand3d_action",
    "robot_demonstrations": "scripted demonstrations in the simulator, as LeRobot v3",
    "posttrained_policies": "stage 3: language model and action head, on demonstrations",
    "benchmark_scores": "Hand3D-test, motion prediction, simulator success",
    "champion": "register the policy and promote it by mlflow/promotion.yaml",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in BY_NAME:  # `hand3d mano_fits` is short for `hand3d run mano_fits`
        arguments.insert(0, "run")
    options = parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except KeyboardInterrupt:
        print("\ninterrupted; finished artefacts are intact, a re-run goes on from there", file=sys.stderr)
        return 130
    except Exception as error:
        if options.debug or not _users(error):
            import traceback

            traceback.print_exc()
            return 1 if _users(error) else 3
        print(f"hand3d: {_one_line(error)}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    stages = "\n".join(f"  {stage.name:24}{ABOUT[stage.name]}{' (a shard)' * stage.partitioned}" for stage in STAGES)
    top = argparse.ArgumentParser(
        prog="hand3d",
        description="From hand video to a registered robot policy, stage by stage.",
        epilog=f"stages, in order (`hand3d STAGE [--shard S]` is short for `hand3d run STAGE`):\n{stages}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    run = _command(commands, "run", _run, "make one artefact (of all shards where none is named)")
    run.add_argument("stage", choices=list(BY_NAME), metavar="STAGE", help="see `hand3d --help`")
    run.add_argument("--shard", default="", help="a key of shards in params.yaml")
    job = run.add_argument_group("as a job of a runner, which checks and records the output")
    job.add_argument(
        "--attest", type=Path, metavar="FILE", help="write what was made, or why not, to FILE; record nothing"
    )
    job.add_argument("--expect-code", default="", metavar="SHA256", help="refuse to run any other code of the stage")
    job.add_argument("--require-gpu", action="store_true", help="refuse to run without a GPU")
    bootstrap = _command(commands, "bootstrap", _bootstrap, "fetch weights and clips, build the hand model")
    bootstrap.add_argument("--only", help='"weights", "clips", or one step')
    _command(commands, "status", _status, "what is missing or out of date, and why")
    models = _command(commands, "models", _models, "architectures with their parameter counts, built without weights")
    models.add_argument("--preset", choices=["paper", "tiny"], default="paper", help="size (default: paper)")
    _command(commands, "report", _report, "write report.html from what is made")
    registry_commands.add(commands, _command)
    dry_run = _command(
        commands, "dry-run", _dry_run, "plan Hand3D at the paper's size on made-up clips of nine sources"
    )
    dry_run.add_argument("--rows", type=Path, metavar="FOLDER", help="also make all rows there (1.5 GB), and time it")
    dry_run.add_argument("--processes", type=int, default=2, help="for --rows (default: 2)")
    _add_sources(_command(commands, "sources", _sources, "data sources: what there is, check of a copy, an example"))
    _command(commands, "dvc-yaml", _dvc_yaml, "render dvc.yaml from ops/stages.py")
    return top


def _command(commands, name: str, function: Callable, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    root = Path(os.environ.get("HAND3D_ROOT", "."))
    command.add_argument("--root", type=Path, default=root, help="workspace (default: HAND3D_ROOT, else here)")
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(command=function)
    return command


def _add_sources(sources: argparse.ArgumentParser) -> None:
    actions = sources.add_subparsers(title="actions (none: list the kinds)", dest="action", metavar="ACTION")
    check = actions.add_parser("check", help="look through a copy of a data set before any run")
    check.add_argument(
        "--clips", type=int, default=50, metavar="N", help="look at N clips, spread evenly (default: 50)"
    )
    check.add_argument("--all", action="store_true", help="look at every clip")
    check.add_argument("--use", default="research", help="what the result is for, as raw_videos.use")
    shards = actions.add_parser("shards", help="cut a copy into shards for params.yaml")
    shards.add_argument("--name", help="of the source and its shards (default: the kind)")
    shards.add_argument(
        "--clips", type=int, default=50, metavar="N", help="read N clips, spread evenly, for their length (default: 50)"
    )
    shards.add_argument("--most", type=int, metavar="N", help="at most N shards (default: as many as the graph takes)")
    for action in (check, shards):
        action.add_argument("copy", type=Path, metavar="ROOT", help="folder of the copy")
        action.add_argument("--kind", required=True, help="reader, as `hand3d sources` lists them")
        action.add_argument("--view", help="which camera (default: the source's ego view)")
        action.add_argument(
            "--fov", type=float, metavar="DEG", help="assumed field of view, as raw_videos.assumed_fov_x_deg"
        )
    example = actions.add_parser("example", help="write a source's layout in miniature")
    example.add_argument("kind", help="reader, as `hand3d sources` lists them")
    example.add_argument("out", type=Path, metavar="OUT", help="folder to write into, new or empty")
    docs = actions.add_parser("docs", help="write sources.md and its pictures from the readers")
    docs.add_argument("out", type=Path, metavar="DIR", help="the docs folder")
    for action in (check, shards, example, docs):
        action.add_argument(
            "--root", type=Path, default=argparse.SUPPRESS, help="workspace with the stand-in hand model"
        )
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show an error's traceback")
        action.add_argument(
            "--hand-model", type=Path, metavar="DIR", help="folder of the MANO files (default: stand-in)"
        )


def _run(options: argparse.Namespace) -> int:
    from ops import artefacts, config, data_version
    from ops.rejects import ClipError

    root = options.root.resolve()
    if options.attest:
        from ops import jobs

        return jobs.work(root, options.stage, options.shard, options.attest, options.expect_code, options.require_gpu)
    if options.require_gpu or options.expect_code:
        raise ValueError("--require-gpu and --expect-code are for jobs: give --attest FILE as well")
    settings = config.load(root / "params.yaml")
    if "DVC_STAGE" not in os.environ:
        data_version.prepare(root)
    shards = [options.shard]
    if BY_NAME[options.stage].partitioned and not options.shard:
        shards = list(settings.shards)
    failed = 0
    for shard in shards:
        try:
            failed += _say(artefacts.make(root, settings, options.stage, shard))
        except (ValueError, OSError, ClipError) as error:  # one shard's failure does not take the others with it
            if len(shards) == 1:
                raise
            print(f"hand3d: {data_version.address(options.stage, shard)}: {_one_line(error)}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def _say(made) -> int:
    """Print what was made; 1 if a blocking check failed."""
    from ops.data_version import address

    counts = [f"{count:,} {name}" for name, count in made.report.rows.items()]
    counts += [f"{count:,} rejected: {reason}" for reason, count in made.report.rejects.items()]
    print(f"{address(made.stage, made.shard)}: {', '.join(counts) or 'done'} ({made.seconds:.1f} s) -> {made.folder}")
    for finding in made.findings:
        if not finding.passed:
            kind = "blocking check" if finding.blocking else "check"
            print(f"hand3d: {kind} {finding.name} failed: {finding.detail}", file=sys.stderr)
    return 1 if made.blocked else 0


def _bootstrap(options: argparse.Namespace) -> None:
    from ops import bootstrap, config, data_version

    root = options.root.resolve()
    seconds = bootstrap.bootstrap(root, config.load(root / "params.yaml"), options.only)
    data_version.prepare(root)
    print(", ".join(f"{step} {spent:.1f} s" if spent else f"{step} stands" for step, spent in seconds.items()))


def _status(options: argparse.Namespace) -> None:
    from ops import config, data_version

    root = options.root.resolve()
    config.load(root / "params.yaml")
    data_version.prepare(root)
    stale = data_version.stale(root)
    for address, why in stale.items():
        print(f"{address}: {why}")
    if not stale:
        print("everything is up to date")


def _models(options: argparse.Namespace) -> None:
    from ops.models.presets import describe

    for row in describe(options.preset):
        print(f"{row['part']:<24}{row['parameters']:>16,}  {row['trained_in']}")


def _dry_run(options: argparse.Namespace) -> None:
    from ops.hand3d import dry_run

    if options.rows is None:
        print(dry_run.report(dry_run.plan(), []))
        return
    os.environ.setdefault("POLARS_MAX_THREADS", "1")  # of the processes; each has a core of its own
    print(dry_run.report(*dry_run.make(options.rows, options.processes)))


def _report(options: argparse.Namespace) -> None:
    from ops.report import write

    print(write(options.root.resolve()))


def _sources(options: argparse.Namespace) -> int:
    from ops.bootstrap import weights_dir
    from ops.config import RawVideosConfig, ShardConfig
    from ops.sources import round_trip, survey

    if options.action is None:
        print("\n".join(survey.catalogue()))
        return 0
    standin = weights_dir(options.root.resolve()) / "hand_model"
    if options.action == "example":
        out = round_trip.write_new(options.kind, options.out, options.hand_model or standin)
        print(f"{out}: {options.kind} in miniature")
        return 0
    if options.action == "docs":
        from ops.sources import page

        print("\n".join(map(str, page.write(options.out, options.hand_model or standin))))
        return 0
    hand_model = options.hand_model and str(options.hand_model.resolve())
    name = (options.action == "shards" and options.name) or options.kind
    shard = ShardConfig(name, options.kind, str(options.copy.resolve()), view=options.view, hand_model=hand_model)
    if options.action == "shards":
        from ops import config
        from ops.sources import shards

        params = options.root / "params.yaml"
        sample_fps = config.load(params).mano_fits.sample_fps if params.is_file() else None
        most = config.MAX_SHARDS if options.most is None else options.most
        found = shards.cut(shard, RawVideosConfig(options.fov), sample_fps, options.clips, most)
        print("\n".join(shards.lines(found, shard)))
        return 0
    settings = RawVideosConfig(options.fov, use=options.use)
    clips = None if options.all else options.clips
    found = survey.survey(shard, settings, standin if standin.is_dir() else None, clips)
    print("\n".join(survey.lines(found, settings)))
    return 0 if found.passed else 1


def _dvc_yaml(options: argparse.Namespace) -> None:
    from ops import dvc_file

    root = options.root.resolve()
    print(f"{root / 'dvc.yaml'} {'written' if dvc_file.write(root) else 'is up to date'}")


def _users(error: Exception) -> bool:
    """Whether the message alone tells a user what to mend: wrong input, missing file, full disk, no network."""
    from ops.rejects import ClipError

    return isinstance(error, ValueError | OSError | ClipError)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
