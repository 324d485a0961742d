"""Every blocking check blocks: a bad artefact stays visible, nothing is made from it, and it counts as stale."""

import dagster as dg
import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from dagster_project import definitions, demo
from ops import artefacts, checks, config, data_version, tables
from ops.stages import BY_NAME, STAGES
from ops.store import Report
from tests.assets import fakes


@pytest.fixture
def root(tmp_path, monkeypatch):
    return fakes.ready(tmp_path, monkeypatch)


def edit(folder, file, schema, **columns):
    """Overwrite columns of an artefact's table; written as the stage would, on a new file."""
    table = pl.read_parquet(folder / f"{file}.parquet").with_columns(**columns)
    (folder / f"{file}.parquet").unlink()
    table.write_parquet(folder / f"{file}.parquet")


def joints(depth_m, palm_m):
    points = np.zeros((21, 3), np.float32)
    points[:, 2], points[9, 1] = depth_m, palm_m
    return pl.Series([points.ravel().tolist()], dtype=pl.Array(pl.Float32, 63)).implode().explode()


def save(folder, value):
    (folder / "model.safetensors").unlink()
    save_file({"weight": np.array([value], np.float32)}, folder / "model.safetensors")


def rows_of(schema, *extras):
    return tables.frame(schema, [fakes.valid_row(schema) | extra for extra in extras])


def spoil_calibration(folder, **values):
    rows_of("calibrations", values).write_parquet(folder / "calibrations.parquet.new")
    (folder / "calibrations.parquet.new").replace(folder / "calibrations.parquet")


def metric_maps(folder, scale):
    keys = [{"clip_id": "one/train", "frame": i} for i in range(6)]
    maps = folder.parents[1] / "point_clouds" / folder.name / "point_clouds.parquet"
    maps.unlink()
    rows_of("point_clouds", *({"scale": "metric", "T_cam_world": None} | key for key in keys)).write_parquet(maps)
    (folder / "calibrations.parquet").unlink()
    rows_of("calibrations", *({"scale": scale, "spread": 0.0} | key for key in keys)).write_parquet(
        folder / "calibrations.parquet"
    )


def shifted_tokens(folder):
    extra = {"context_tokens": [], "target_tokens": [512, 512, 512], "waypoints": [0.2, 0.0, 0.5], "num_clipped": 0}
    (folder / "action_rows.parquet").unlink()
    rows_of("action_rows", extra).write_parquet(folder / "action_rows.parquet")


def shared_video(folder):
    train = folder.parent / "hand3d_visual" / "one" / "visual_rows.parquet"
    train.unlink()
    rows_of("visual_rows", {"clip_id": "one/test"}).write_parquet(train)


def foreign_frame(folder):
    from ops.hand3d.release.tars import TarShards

    with TarShards(folder / "frames" / "one", 10) as tars:
        tars.add({"one/test/000000.jpg": b"x"})


SPOILED = {
    ("raw_videos", "schema"): lambda f: edit(f, "clips", "clips", fps=pl.lit(-1.0)),
    ("raw_videos", "readable_video"): lambda f: pl.read_parquet(f / "clips.parquet").clear().write_parquet(f / "n") or (f / "n").replace(f / "clips.parquet"),
    ("mano_fits", "hand_sized"): lambda f: edit(f, "mano_fits", "mano_fits", joints_cam=joints(0.5, 0.9)),
    ("mano_fits", "in_front_of_camera"): lambda f: edit(f, "mano_fits", "mano_fits", joints_cam=joints(-0.5, 0.09)),
    ("calibrated_point_clouds", "scale_spread"): lambda f: spoil_calibration(f, spread=0.9),
    ("calibrated_point_clouds", "metric_scale"): lambda f: metric_maps(f, 2.0),
    ("hand3d_action", "tokens_decode"): shifted_tokens,
    ("hand3d_test", "unseen"): shared_video,
    ("hand3d_test", "has_rows"): lambda f: pl.read_parquet(f / "visual_rows.parquet").clear().write_parquet(f / "n") or (f / "n").replace(f / "visual_rows.parquet"),
    ("hand3d_dataset", "as_listed"): lambda f: fakes.write(f / "seen.txt", "other bytes"),
    ("hand3d_dataset", "all_rows"): lambda f: (f / "parquet" / "visual" / "test-all.parquet").unlink(),
    ("hand3d_dataset", "frames_allowed"): foreign_frame,
    ("base_model", "weights_finite"): lambda f: save(f, np.nan),
    ("stage1_checkpoint", "weights_finite"): lambda f: save(f, np.inf),
    ("robot_demonstrations", "has_demonstrations"): lambda f: (f / "lerobot/data/chunk-000/file-000.parquet").unlink(),
    ("benchmark_scores", "trials_complete"): lambda f: edit(f, "trials", "trials", policy=pl.lit("policy")),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace where everything stands, without DVC; copied by none: each test spoils another artefact."""
    root = tmp_path_factory.mktemp("made")
    fakes.workspace(root)
    with pytest.MonkeyPatch.context() as patch:
        fakes.install(patch, root)
        from ops.pipeline import run_stage

        settings = config.load(root / "params.yaml")
        for stage in STAGES:
            for shard in fakes.SHARDS if stage.partitioned else [""]:
                run_stage(root, settings, stage.name, shard)
        yield root


def findings(root, name, shard):
    settings = config.load(root / "params.yaml")
    report = Report.load(root / "data" / name / shard)
    return {f.name: f for f in checks.evaluate(checks.Made(root, settings, BY_NAME[name], shard, report))}


@pytest.mark.parametrize(("name", "check"), SPOILED)
def test_check_passes_on_the_good_and_fails_on_the_bad(made, tmp_path, name, check):
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(made, root)
    shard = "one" if BY_NAME[name].partitioned else ""
    assert findings(root, name, shard)[check].passed
    SPOILED[name, check](root / "data" / name / shard)
    found = findings(root, name, shard)[check]
    assert not found.passed
    assert found.blocking
    assert found.detail


def test_metrics_and_reasons_are_checked_everywhere(made):
    settings = config.load(made / "params.yaml")
    silent = Report(metrics={"loss": float("nan")})
    found = {f.name: f for f in checks.evaluate(checks.Made(made, settings, BY_NAME["point_clouds"], "one", silent))}
    assert not found["metrics_finite"].passed
    assert not found["rows_or_reasons"].passed  # no row, and no reject says why
    found = {f.name: f for f in checks.evaluate(checks.Made(made, settings, BY_NAME["objects"], "one", silent))}
    assert found["rows_or_reasons"].passed  # there was no point map to look at
    assert "nothing came in from point_clouds" in found["rows_or_reasons"].detail
    for stage in STAGES:
        names = [check.name for check in checks.checks_of(stage.name)]
        assert len(names) == len(set(names))
        assert any(check.blocking for check in checks.checks_of(stage.name)), stage.name


def test_a_check_that_is_needed_has_a_spoiled_example():
    special = {(stage, check.name) for stage, made_by in checks.SPECIAL.items() for check in made_by if check.blocking}
    elsewhere = {
        ("hand3d_visual", "second_route"),  # tests/ops: needs real rows
        ("hand3d_dataset", "second_route"),
        ("point_clouds", "maps_readable"),
        ("stage2_checkpoint", "weights_finite"),
        ("posttrained_policies", "weights_finite"),
        ("champion", "promotion_gate"),  # tests/ops/test_champion.py: blocking or a warning
    } | {  # each of these is shown to catch its own slip in tests/ops/test_acceptance.py
        *(("raw_videos", name) for name in ("reader_round_trip", "camera_direction", "frame_counts", "clip_licence")),
        *(
            ("mano_fits", name)
            for name in ("label_hand_size", "wrist_is_tau", "handedness", "published_joints", "depth_scale")
        ),
    }
    assert special - set(SPOILED) == elsewhere


@pytest.mark.parametrize("name", [stage.name for stage in STAGES if stage.name not in ("champion", "hand3d_action")])
def test_failed_blocking_check_stops_what_follows(root, monkeypatch, name):
    stage = BY_NAME[name]
    readers = {other.name for other in STAGES if name in other.reads and other.partitioned == stage.partitioned}
    if not readers:
        pytest.skip("its readers belong to another job: see test_failed_shard_stops_training")
    bad = checks.Check("refuse", "for the test", lambda _: (False, "refused for the test"))
    monkeypatch.setitem(checks.SPECIAL, name, (bad,))
    settings = config.load(root / "params.yaml")
    before = [s.name for s in STAGES[: STAGES.index(stage)]]
    for earlier in before:
        for shard in fakes.SHARDS if BY_NAME[earlier].partitioned else [""]:
            from ops.pipeline import run_stage

            run_stage(root, settings, earlier, shard)
    if not stage.partitioned:
        for other in STAGES:
            if other.partitioned:
                for shard in fakes.SHARDS:
                    run_stage(root, settings, other.name, shard)
    fakes.ran(root)
    job = definitions.build(root).resolve_job_def("label_shard" if stage.partitioned else "train_and_score")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            instance=instance,
            partition_key="one" if stage.partitioned else None,
            asset_selection=[dg.AssetKey(n) for n in [name, *readers]],
            raise_on_error=False,
            run_config=demo.QUIET,
        )
        assert not result.success
        assert instance.get_latest_materialization_event(dg.AssetKey(name)), "it can be looked at"
        for reader in readers:
            assert instance.get_latest_materialization_event(dg.AssetKey(reader)) is None
    assert fakes.ran(root) == [f"{name} one" if stage.partitioned else name]
    assert demo.failures(result)[name] == "check refuse failed: refused for the test"
    shard = "one" if stage.partitioned else ""
    assert data_version.address(name, shard) in data_version.stale(root)


def test_console_and_dvc_see_the_same_refusal(root, monkeypatch, capsys):
    from ops.__main__ import main

    bad = checks.Check("refuse", "for the test", lambda _: (False, "refused for the test"))
    monkeypatch.setitem(checks.SPECIAL, "raw_videos", (bad,))
    assert main(["run", "raw_videos", "--shard", "one", "--root", str(root)]) == 1
    assert "blocking check refuse failed: refused for the test" in capsys.readouterr().err
    assert data_version.recorded_version(root, "raw_videos", "one") is None


def test_pictures_schema_and_counts_reach_the_catalogue(root):
    from assets.factory import materialised

    settings = config.load(root / "params.yaml")
    artefacts.make(root, settings, "raw_videos", "one")
    result = materialised(artefacts.make(root, settings, "mano_fits", "one"))
    assert result.metadata["dagster/row_count"].value == 1
    assert result.metadata["rejected/no_object"].value == 1
    assert result.metadata["picture/a picture"].value.startswith("![a picture](data:image/png;base64,")
    columns = {column.name: column.type for column in result.metadata["dagster/column_schema"].schema.columns}
    assert columns["joints_cam"] == "Array(Float32, shape=(63,))"
    notes = {column.name: column.description for column in result.metadata["dagster/column_schema"].schema.columns}
    assert notes["tau"] == "WRIST position, camera frame, m"
    assert result.data_version.value == data_version.recorded_version(root, "mano_fits", "one")
