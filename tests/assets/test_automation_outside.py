"""What DVC made or fetched is recorded without a run, with DVC's word on whether it is up to date; the survey; the night."""

import os
import subprocess

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from assets import clips, upkeep
from assets.factory import ONLY_STALE
from dagster_project import definitions, outside, schedules, sensors, staleness
from ops import artefacts, config, data_version
from ops.stages import STAGES
from ops.turns import listing
from tests.assets import fakes

CHAIN = ("raw_videos", "mano_fits", "hand3d_action")


@pytest.fixture
def root(tmp_path, monkeypatch):
    return fakes.ready(tmp_path, monkeypatch, ("one",))


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def settings(root):
    return config.load(root / "params.yaml")


def make(root, *names):
    for name in names:
        artefacts.make(root, settings(root), name, "one")


def statuses(root, instance):
    graph = definitions.build(root).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return {name: resolver.get_status(dg.AssetKey(name), "one").value for name in CHAIN}


def look(root, instance):
    events, _, _ = sensors.changes(settings(root), root, {})
    for event in events:
        instance.report_runless_asset_event(event)


def test_versions_made_outside_are_recorded_once_and_are_fresh(root, instance):
    look(root, instance)
    make(root, *CHAIN)
    found = outside.record(instance, settings(root), root)
    assert [item.stage for item in found.recorded] == list(CHAIN)
    assert (found.stale, found.waiting) == ([], [])
    lock = data_version.recorded(root)
    known = {name: staleness.latest(instance, name, ["one"])["one"][staleness.DATA_TAG] for name in CHAIN}
    assert known == {name: lock[f"{name}@one"]["outs"][0]["md5"] for name in CHAIN}
    assert set(statuses(root, instance).values()) == {"FRESH"}
    assert not instance.get_runs()
    due = {item.stage for item in staleness.due(instance, settings(root), root)}
    assert due == {stage.name for stage in STAGES} - set(CHAIN)
    assert outside.record(instance, settings(root), root) == outside.Found()


def test_older_version_fetched_by_dvc_is_recorded_and_what_was_made_from_another_is_stale(root, instance):
    """`git checkout` of an older dvc.lock and `dvc checkout` of one output, as somebody who goes back a step does."""
    look(root, instance)
    make(root, *CHAIN)
    outside.record(instance, settings(root), root)
    old = (root / "dvc.lock").read_text(encoding="utf-8")
    fakes.write(root / "code" / "mano_fits.py", "# other hands\n")
    make(root, "mano_fits")
    assert [item.stage for item in outside.record(instance, settings(root), root).recorded] == ["mano_fits"]
    assert statuses(root, instance)["hand3d_action"] == "STALE"
    fakes.write(root / "dvc.lock", old)
    before = outside.record(instance, settings(root), root)
    assert before.waiting == ["mano_fits@one"], "dvc.lock is there, its files are not yet"
    assert "dvc checkout" in before.said()
    dvc(root, "checkout", "mano_fits@one")
    found = outside.record(instance, settings(root), root)
    assert [item.stage for item in found.recorded] == ["mano_fits"]
    assert [item.stage for item in found.stale] == ["mano_fits"], "made by code that is no longer there"
    assert statuses(root, instance)["mano_fits"] == "STALE"


def test_sensor_records_asks_for_the_stale_and_is_quiet_while_nothing_changes(root, instance):
    look(root, instance)
    make(root, "raw_videos", "mano_fits")
    sensor = outside_sensor(root)
    first = tick(sensor, instance, root, None)
    assert (first.run_requests, bool(first.cursor)) == ([], True)
    assert tick(sensor, instance, root, first.cursor).skip_message == "dvc.lock has not changed"
    make(root, "hand3d_action")
    fakes.write(root / "code" / "hand3d_action.py", "# changed since\n")
    (request,) = tick(sensor, instance, root, first.cursor).run_requests
    assert [key.to_user_string() for key in request.asset_selection] == ["hand3d_action"]
    assert request.partition_key == "one"
    assert request.tags[ONLY_STALE] == "true"


def test_what_a_run_is_making_is_left_to_it(root, instance):
    look(root, instance)
    make(root, "raw_videos", "mano_fits")
    job = definitions.build(root).resolve_job_def("label_shard")
    selection = frozenset([dg.AssetKey("mano_fits")])
    run = instance.create_run_for_job(job, tags={"dagster/partition": "one"}, asset_selection=selection)
    assert [item.stage for item in outside.record(instance, settings(root), root).recorded] == ["raw_videos"]
    instance.report_run_failed(run)
    assert [item.stage for item in outside.record(instance, settings(root), root).recorded] == ["mano_fits"]


def outside_sensor(root):
    return sensors.dvc_changes(settings(root), root)


def tick(sensor, instance, root, cursor):
    repository = definitions.build(root).get_repository_def()
    context = dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository)
    return repository.get_sensor_def(sensor.name).evaluate_tick(context)


def dvc(root, *arguments):
    done = subprocess.run(["dvc", *arguments], cwd=root, env=fakes.environment(root), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# folders


def test_vanished_folder_is_told_once_and_again_when_it_is_back(root, instance):
    sensor = sensors.source_changes(settings(root), root)
    first = tick(sensor, instance, root, None)
    assert [type(event).__name__ for event in first.asset_events] == ["AssetObservation"]
    (root / "videos").rename(root / "gone")
    second = tick(sensor, instance, root, first.cursor)
    (event,) = second.asset_events
    assert (event.check_name, event.passed) == (upkeep.READABLE, False)
    assert "videos/one is missing" in event.description
    third = tick(sensor, instance, root, second.cursor)
    assert list(third.asset_events) == []
    (root / "gone").rename(root / "videos")
    (event,) = tick(sensor, instance, root, third.cursor).asset_events
    assert (event.check_name, event.passed) == (upkeep.READABLE, True)


def test_folder_too_large_for_a_sensor_is_hashed_in_a_run(root, instance, monkeypatch):
    monkeypatch.setattr(sensors, "MAX_GB", 1e-9)
    sensor = sensors.source_changes(settings(root), root)
    first = tick(sensor, instance, root, None)
    assert [key.to_user_string() for key in first.run_requests[0].asset_selection] == [upkeep.SURVEY]
    assert first.asset_events == []
    assert tick(sensor, instance, root, first.cursor).run_requests == []


def test_a_short_budget_leaves_the_rest_to_the_next_look(tmp_path, monkeypatch):
    fakes.workspace(tmp_path, ("one", "two", "three"))
    fakes.install(monkeypatch, tmp_path)
    known, seen = {}, []
    for _ in range(3):
        events, known, _ = sensors.changes(settings(tmp_path), tmp_path, known, budget_s=-1.0)
        seen.append([event.partition for event in events])
    assert seen == [["one"], ["two"], ["three"]]


def survey(root, instance):
    job = definitions.build(root).resolve_job_def("look_at_sources")
    result = job.execute_in_process(instance=instance, raise_on_error=False, run_config=fakes_quiet())
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    return result.success, checks


def fakes_quiet():
    return {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def test_survey_finds_bytes_that_changed_behind_the_cheap_looks_back(root, instance):
    look(root, instance)
    assert survey(root, instance) == (True, {upkeep.READABLE: True, upkeep.UNTOUCHED: True})
    before, video = clips.observed_version(instance, "one"), root / "videos" / "one" / "a.mp4"
    times, text = video.stat(), video.read_text(encoding="utf-8")
    mark = listing([video.parent])
    fakes.write(video, text.replace("video", "vidfo"))  # one bit, as a bad disk does
    os.utime(video, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert listing([video.parent]) == mark
    assert survey(root, instance) == (True, {upkeep.READABLE: True, upkeep.UNTOUCHED: False})
    assert clips.observed_version(instance, "one") != before, "and what was found is what automation goes by"
    assert survey(root, instance)[1][upkeep.UNTOUCHED]


def test_survey_fails_its_check_where_a_folder_is_gone(root, instance):
    (root / "videos").rename(root / "gone")
    assert survey(root, instance) == (True, {upkeep.READABLE: False, upkeep.UNTOUCHED: True})


# schedules


def test_schedules_are_off_by_default_and_on_by_one_switch(root, monkeypatch):
    def states():
        repository = definitions.build(root).get_repository_def()
        return {made.name: made.default_status.value for made in (*repository.schedule_defs, *repository.sensor_defs)}

    names = {"weekly_source_survey", "nightly_champion_rescore"}
    names |= {"alerts", "automation", "dvc_changes", "source_changes"}
    assert names <= set(states())
    assert set(states().values()) == {"STOPPED"}
    monkeypatch.setenv("HAND3D_AUTOMATION", "on")
    assert {name for name, state in states().items() if state == "RUNNING"} >= names


def test_no_champion_no_nightly_run(root, instance):
    schedule = definitions.build(root).get_repository_def().get_schedule_def("nightly_champion_rescore")
    found = schedule.evaluate_tick(dg.build_schedule_context(instance=instance))
    assert "has the alias champion" in found.skip_message
    assert not (root / "mlflow.db").exists(), "asking makes no empty registry"


def test_nightly_run_asks_for_the_trials_of_the_environment(root, instance, monkeypatch):
    monkeypatch.setenv("HAND3D_RESCORE_TRIALS", "3")
    monkeypatch.setattr("ops.evaluation.rescore.champion_version", lambda *_: 7)
    repository = definitions.build(root).get_repository_def()
    (request,) = (
        repository.get_schedule_def("nightly_champion_rescore")
        .evaluate_tick(dg.build_schedule_context(instance=instance))
        .run_requests
    )
    assert request.run_config == {"ops": {"champion_rescore": {"config": {"num_trials": 3}}}}
    monkeypatch.setenv("HAND3D_RESCORE_TRIALS", "many")
    with pytest.raises(ValueError, match="got 'many'"):
        schedules.rescore_trials()


def test_freshness_policies_are_evaluated_by_dagsters_own_rule(root, instance, monkeypatch):
    """UNKNOWN before anything was made, PASS after, WARN and FAIL as time goes by."""
    import asyncio
    import time

    from dagster._core.definitions.freshness_evaluator import FRESHNESS_EVALUATORS_BY_POLICY_TYPE

    graph = definitions.build(root).resolve_asset_graph()
    names = (upkeep.SURVEY, upkeep.RESCORE, "benchmark_scores", "champion")

    def states(later_s=0.0):
        now = time.time() + later_s
        monkeypatch.setattr("dagster._core.definitions.freshness_evaluator.get_current_timestamp", lambda: now)
        found = {}
        for name in names:
            node = graph.get(dg.AssetKey(name))
            evaluator = FRESHNESS_EVALUATORS_BY_POLICY_TYPE[type(node.freshness_policy)]()
            context = LoadingContextForTest(instance)
            found[name] = asyncio.run(evaluator.evaluate_freshness(context, node)).value
        return list(found.values())

    assert states() == ["UNKNOWN"] * 4
    for name in names:
        instance.report_runless_asset_event(dg.AssetMaterialization(name))
    hour, day = 3600.0, 86400.0
    assert states() == ["PASS"] * 4
    assert states(27 * hour) == ["PASS", "WARN", "PASS", "PASS"]
    assert states(8.5 * day) == ["WARN", "FAIL", "PASS", "PASS"]
    assert states(91 * day) == ["FAIL"] * 4
