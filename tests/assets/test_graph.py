"""The asset graph on fake stages: lineage, versions, staleness in both directions, failures, blocking checks."""

import os
import shutil
import subprocess

import dagster as dg
import pytest
import yaml

from assets.factory import ONLY_STALE
from dagster_project import definitions, demo, sensors, staleness
from dagster_project.run_process import PROCESS_TAG
from ops import artefacts, config, data_version
from ops.stages import BY_NAME, STAGES
from tests.assets import fakes

ALL = sorted(
    f"{stage.name} {shard}".strip() for stage in STAGES for shard in (fakes.SHARDS if stage.partitioned else [""])
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    return fakes.ready(tmp_path, monkeypatch)


def settings(root):
    return config.load(root / "params.yaml")


def run(root, job, shard=None, assets=None, instance=None, **tags):
    resolved = definitions.build(root).resolve_job_def(job)
    return resolved.execute_in_process(
        instance=instance,
        partition_key=shard,
        asset_selection=[dg.AssetKey(name) for name in assets] if assets else None,
        raise_on_error=False,
        tags=tags,
        run_config=demo.QUIET,
    )


def everything(root, instance):
    for shard in fakes.SHARDS:
        assert run(root, "label_shard", shard, instance=instance).success
    assert run(root, "train_and_score", instance=instance).success


def test_every_partition_carries_dvcs_hash(root):
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(root, "label_shard", "one", instance=instance)
        assert result.success, demo.failures(result)
        versions = {
            event.asset_key.to_user_string(): event.step_materialization_data.materialization.tags[
                "dagster/data_version"
            ]
            for event in result.get_asset_materialization_events()
        }
    lock = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert versions == {name.removesuffix("@one"): entry["outs"][0]["md5"] for name, entry in lock.items()}
    assert len(versions) == sum(stage.partitioned for stage in STAGES)


@pytest.mark.slow
def test_dvc_skips_what_dagster_made_and_names_what_changed(root):
    with dg.DagsterInstance.ephemeral() as instance:
        everything(root, instance)
    assert sorted(fakes.ran(root)) == ALL
    assert data_version.stale(root) == {}
    assert "didn't change" in dvc(root, "repro")
    assert fakes.ran(root) == []
    fakes.write(root / "code" / "hand3d_test.py", "# better\n")
    assert list(data_version.stale(root)) == ["hand3d_test"]
    params = (root / "params.yaml").read_text(encoding="utf-8")
    fakes.write(root / "params.yaml", params.replace("0.3", "0.4"))
    assert sorted(data_version.stale(root)) == ["hand3d_test", "mano_fits@one", "mano_fits@two"]


@pytest.mark.slow
def test_dagster_records_what_dvc_made_without_running_it(root):
    """`dvc repro` of one stage and what it needs, in processes of its own, and then the Dagster run."""
    dvc(root, "repro", "hand3d_action@one")
    assert fakes.ran(root) == ["raw_videos one", "mano_fits one", "hand3d_action one"]
    assets = ["raw_videos", "mano_fits", "hand3d_action"]
    with dg.DagsterInstance.ephemeral() as instance:
        due = {(item.stage, item.shard): item.why for item in staleness.due(instance, settings(root), root)}
        assert {due[name, "one"] for name in assets} == {"made outside Dagster: to be recorded"}
        assert run(root, "label_shard", "one", assets, instance, **{ONLY_STALE: "true"}).success
        assert fakes.ran(root) == []
        left = {(item.stage, item.shard) for item in staleness.due(instance, settings(root), root)}
        assert left == set(due) - {(name, "one") for name in assets}


@pytest.mark.slow
def test_changed_video_reruns_its_shard_and_equal_content_stops_early(root):
    with dg.DagsterInstance.ephemeral() as instance:
        everything(root, instance)
        fakes.ran(root)
        fakes.write(root / "videos" / "one" / "a.mp4", "video of one  ")  # to the fake, the same content
        due = staleness.due(instance, settings(root), root)
        assert [(item.stage, item.shard) for item in due] == [("raw_videos", "one")]
        (lane,) = demo.first_lanes({(item.stage, item.shard) for item in due}, settings(root))
        assert run(root, lane.job, lane.shard, lane.assets, instance, **{ONLY_STALE: "true"}).success
        assert fakes.ran(root) == ["raw_videos one"]
        assert staleness.due(instance, settings(root), root) == []
        fakes.write(root / "videos" / "one" / "a.mp4", "another video")
        assert run(root, lane.job, lane.shard, lane.assets, instance, **{ONLY_STALE: "true"}).success
        # in an order of Dagster's, which knows only what reads what
        assert sorted(fakes.ran(root)) == sorted(f"{stage.name} one" for stage in STAGES if stage.partitioned)
        assert {item.shard for item in staleness.due(instance, settings(root), root)} == {""}


@pytest.mark.slow
def test_push_and_pull_through_s3(root, tmp_path_factory, monkeypatch):
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        import boto3

        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="hand3d")
        artefacts.make(root, settings(root), "raw_videos", "one")
        dvc(root, "remote", "add", "-d", "store", "s3://hand3d/cache")
        dvc(root, "remote", "modify", "store", "endpointurl", f"http://{host}:{port}")
        dvc(root, "push", "raw_videos@one")
        made = (root / "data" / "raw_videos" / "one" / "clips.parquet").read_bytes()
        shutil.rmtree(root / "data" / "raw_videos")
        shutil.rmtree(root / ".dvc" / "cache")
        dvc(root, "pull", "raw_videos@one")
        assert (root / "data" / "raw_videos" / "one" / "clips.parquet").read_bytes() == made
    finally:
        server.stop()


def test_dvc_dag_is_the_asset_graph_is_the_list_of_stages(root):
    listed = {(read, stage.name) for stage in STAGES for read in stage.reads}
    lines = [
        line.strip().rstrip(";").replace('"', "") for line in dvc(root, "dag", "--dot").splitlines() if "->" in line
    ]
    edges = {tuple(part.strip().split("@")[0] for part in line.split("->")) for line in lines}
    assert edges == listed
    graph = definitions.build(root).resolve_asset_graph()
    assets = {
        (parent.to_user_string(), key.to_user_string())
        for key in graph.get_all_asset_keys()
        for parent in graph.get(key).parent_keys
    }
    upkeep = {("video_folders", "source_survey"), ("champion", "champion_rescore")}  # looked at, not made by DVC
    assert assets == listed | upkeep | {("video_folders", "raw_videos")}
    assert set(yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]) == set(BY_NAME)


def test_killed_stage_leaves_the_old_output_and_hard_links_do_not_block_the_new(root):
    first = artefacts.make(root, settings(root), "raw_videos", "one")
    table = first.folder / "clips.parquet"
    assert table.stat().st_nlink > 1, "the cache holds the same file, not a copy"
    fakes.write(root / "videos" / "one" / "a.mp4", "new")
    second = artefacts.make(root, settings(root), "raw_videos", "one")
    assert second.version != first.version
    fakes.write(root / fakes.FAIL, "raw_videos one")
    with pytest.raises(ValueError, match="told to fail"):
        artefacts.make(root, settings(root), "raw_videos", "one")
    assert data_version.content_hash(root, "raw_videos", "one") == second.version


def test_output_of_a_removed_shard_is_moved_out_of_the_way(root):
    artefacts.make(root, settings(root), "raw_videos", "one")
    artefacts.make(root, settings(root), "raw_videos", "two")
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    del params["shards"]["two"]
    fakes.write(root / "params.yaml", yaml.safe_dump(params))
    data_version.prepare(root)
    artefacts.make(root, settings(root), "raw_videos", "one")
    assert [path.name for path in (root / "data" / "raw_videos").iterdir()] == ["one"]
    assert list((root / "data" / ".removed" / "raw_videos").iterdir())


def dvc(root, *arguments):
    done = subprocess.run(["dvc", *arguments], cwd=root, env=fakes.environment(root), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_failed_shard_stops_training_and_a_second_run_goes_on(root, capfd):
    """The real worker processes cannot be given fakes: lanes run here, in the order in which the demo runs them."""
    fakes.write(root / fakes.FAIL, "mano_fits two")
    assert sorted(demo_lanes(root)) == ["one", "robot_demonstrations", "two"]
    made = fakes.ran(root)
    assert "hand3d_action one" in made
    assert "hand3d_action two" not in made
    assert "base_model" not in made
    (root / fakes.FAIL).unlink()
    assert demo_lanes(root) == ["two", "training and scores"]
    assert sorted(made + fakes.ran(root)) == ALL
    assert demo_lanes(root) == []


def demo_lanes(root):
    """Names of the lanes that the demo ran."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_run_lanes", lambda lanes, where: [demo.run_lane(lane, str(where)) for lane in lanes])
        return [outcome.lane for outcome in demo.materialise(root, settings(root))]


def test_automation_asks_for_exactly_what_changed(root):
    defs = definitions.build(root)
    with dg.DagsterInstance.ephemeral() as instance:
        found, known, problems = sensors.changes(settings(root), root, {})
        assert len(found) == 2
        assert not problems
        for event in found:
            instance.report_runless_asset_event(event)
        asked = dg.evaluate_automation_conditions(defs=defs, instance=instance)  # the first look sets the baseline
        asked = dg.evaluate_automation_conditions(defs=defs, instance=instance, cursor=asked.cursor)
        for name in ("raw_videos", "hand3d_visual"):  # a shard's whole chain in one run
            assert asked.get_requested_partitions(dg.AssetKey(name)) == set(fakes.SHARDS)
        for shard in fakes.SHARDS:
            run(root, "label_shard", shard, instance=instance)
        for _ in range(2):
            asked = dg.evaluate_automation_conditions(defs=defs, instance=instance, cursor=asked.cursor)
        assert asked.get_requested_partitions(dg.AssetKey("raw_videos")) == set()
        assert asked.get_requested_partitions(dg.AssetKey("mano_fits")) == set()
        os.utime(root / "videos" / "one" / "a.mp4")  # a new time on the same content
        found, known, _ = sensors.changes(settings(root), root, known)
        assert found == []
        fakes.write(root / "videos" / "two" / "a.mp4", "another video")
        (event,), known, _ = sensors.changes(settings(root), root, known)
        instance.report_runless_asset_event(event)
        asked = dg.evaluate_automation_conditions(defs=defs, instance=instance, cursor=asked.cursor)
        assert asked.get_requested_partitions(dg.AssetKey("raw_videos")) == {"two"}
        assert asked.get_requested_partitions(dg.AssetKey("mano_fits")) == set()
        run(root, "label_shard", "two", ["raw_videos"], instance)
        asked = dg.evaluate_automation_conditions(defs=defs, instance=instance, cursor=asked.cursor)
        assert asked.get_requested_partitions(dg.AssetKey("mano_fits")) == {"two"}


def test_run_whose_process_was_killed_is_ended(root):
    job = definitions.build(root).resolve_job_def("label_shard")
    with dg.DagsterInstance.ephemeral() as instance:
        for process in (2**22 + 1, os.getpid()):
            dagster_run = instance.create_run_for_job(job, tags={PROCESS_TAG: str(process)})
            _start(instance, dagster_run)
        assert demo.close_dead_runs(instance) == 1
        statuses = {run.tags[PROCESS_TAG]: run.status.value for run in instance.get_runs()}
    assert statuses == {str(2**22 + 1): "FAILURE", str(os.getpid()): "STARTED"}


def _start(instance, dagster_run):
    event = dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name=dagster_run.job_name)
    instance.report_dagster_event(event, dagster_run.run_id)


def test_pool_slots_of_killed_runs_are_given_back(root, tmp_path):
    job = definitions.build(root).resolve_job_def("label_shard")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 2)
        runs = {}
        for process in (2**22 + 1, os.getpid()):
            run_of = instance.create_run_for_job(job, tags={PROCESS_TAG: str(process)})
            _start(instance, run_of)
            storage.claim_concurrency_slot("gpu", run_of.run_id, "step")
            runs[process] = run_of.run_id
        assert storage.get_concurrency_info("gpu").active_run_ids == set(runs.values())
        demo.close_dead_runs(instance)
        assert storage.get_concurrency_info("gpu").active_run_ids == {runs[os.getpid()]}
