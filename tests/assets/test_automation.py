"""What a change makes due: exactly the partitions it touches, by content, code and the list of shards; nothing twice."""

import os

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.events import StepMaterializationData
from dagster._core.loader import LoadingContextForTest

from assets.factory import version_of_code
from dagster_project import definitions, outside, sensors
from ops import config
from ops.stages import STAGES
from tests.assets import fakes

PER_SHARD = [stage for stage in STAGES if stage.partitioned]
OVERALL = [stage for stage in STAGES if not stage.partitioned]


@pytest.fixture
def root(tmp_path, monkeypatch):
    fakes.workspace(tmp_path)
    fakes.install(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def settings(root):
    return config.load(root / "params.yaml")


class Daemon:
    """The automation sensor's ticks, without the daemon. What is asked for is noted, not run."""

    def __init__(self, root, instance):
        self.root, self.instance, self.cursor = root, instance, None
        self.reload()

    def reload(self):
        """As reloading the code location does."""
        self.defs = definitions.build(self.root)

    def tick(self):
        """{stage: shards asked for}; {""} for an unpartitioned one."""
        found = dg.evaluate_automation_conditions(defs=self.defs, instance=self.instance, cursor=self.cursor)
        self.cursor = found.cursor
        asked = {}
        for stage in STAGES:
            key = dg.AssetKey(stage.name)
            if stage.partitioned:
                shards = found.get_requested_partitions(key)
            else:
                shards = {""} if found.get_num_requested(key) else set()
            if shards:
                asked[stage.name] = set(shards)
        return asked

    def made(self, stage, shard="", version="1", run=None):
        """As a run of it would report."""
        event = outside.event(self.instance, settings(self.root), self.root, outside.Item(stage, shard, version), True)
        if run is None:
            self.instance.report_runless_asset_event(event)
            return
        told = dg.DagsterEvent(
            dg.DagsterEventType.ASSET_MATERIALIZATION.value, run.job_name,
            event_specific_data=StepMaterializationData(event),
        )  # fmt: skip
        self.instance.report_dagster_event(told, run.run_id)

    def observe(self, known):
        events, known, problems = sensors.changes(settings(self.root), self.root, known)
        for event in events:
            self.instance.report_runless_asset_event(event)
        return [event.partition for event in events], known, problems

    def statuses(self):
        graph = self.defs.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        pairs = [(s.name, shard) for s in STAGES for shard in (settings(self.root).shards if s.partitioned else [None])]
        return {f"{n} {k or ''}".strip(): resolver.get_status(dg.AssetKey(n), k).value for n, k in pairs}


@pytest.fixture
def standing(root, instance, monkeypatch):
    """Everything made and recorded, two ticks gone by: nothing is asked for."""
    return stand(root, instance, monkeypatch, with_inputs=False)


@pytest.fixture
def standing_with_inputs(root, instance, monkeypatch):
    """The same, and each event says what it was made from, so that Dagster can tell what is stale."""
    return stand(root, instance, monkeypatch, with_inputs=True)


def stand(root, instance, monkeypatch, with_inputs):
    monkeypatch.setattr(outside.Report, "load", lambda _: outside.Report())
    daemon = Daemon(root, instance)
    _, daemon.known, _ = daemon.observe({})
    for stage in STAGES:
        for shard in fakes.SHARDS if stage.partitioned else [""]:
            if with_inputs:
                daemon.made(stage.name, shard)
                continue
            tags = {"dagster/data_version": "1"}
            instance.report_runless_asset_event(dg.AssetMaterialization(stage.name, partition=shard or None, tags=tags))
    daemon.tick()
    assert daemon.tick() == {}
    return daemon


def test_changed_video_is_followed_level_by_level_and_no_further_than_its_content(root, standing_with_inputs):
    standing = standing_with_inputs
    fakes.write(root / "videos" / "two" / "a.mp4", "another video")
    assert standing.observe(standing.known)[0] == ["two"]
    stale = {name for name, status in standing.statuses().items() if status == "STALE"}
    assert stale == {"raw_videos two"}
    assert standing.tick() == {"raw_videos": {"two"}}
    standing.made("raw_videos", "two", "2")
    # the shard's other stages in one run; what reads all shards waits for it
    assert standing.tick() == {stage.name: {"two"} for stage in PER_SHARD[1:]}
    for stage in PER_SHARD[1:]:
        standing.made(stage.name, "two", "1")  # no other content than before
    assert set(standing.tick()) == {s.name for s in OVERALL if "raw_videos" in s.reads and not waits_for_another(s)}


def waits_for_another(stage):
    """Whether it reads an overall stage that reads raw_videos as well, and so is made first."""
    first = {s.name for s in OVERALL if "raw_videos" in s.reads}
    return bool(first & set(stage.reads))


def test_equal_content_stops_at_once(root, standing_with_inputs):
    standing = standing_with_inputs
    fakes.write(root / "videos" / "two" / "a.mp4", "another video")
    standing.observe(standing.known)
    assert standing.tick() == {"raw_videos": {"two"}}
    standing.made("raw_videos", "two", "1")  # the manifest came out as it was
    assert standing.tick() == {}
    assert standing.tick() == {}
    assert set(standing.statuses().values()) == {"FRESH"}


def test_overall_stages_follow_one_after_the_other(root, standing):
    """A new base model asks for the stage that reads it, and for nothing behind that until it has run."""
    standing.made("base_model", version="2")
    assert standing.tick() == {"stage1_checkpoint": {""}}
    standing.made("stage1_checkpoint", version="1")
    assert standing.tick() == {"benchmark_scores": {""}}  # it had waited: one of its inputs was about to change
    standing.made("benchmark_scores", version="1")
    assert standing.tick() == {}


def test_every_kind_of_change_in_a_folder_is_seen_in_its_shard_only(root, standing):
    folder, known = root / "videos" / "one", standing.known
    changes = {
        "added": lambda: fakes.write(folder / "b.mp4", "second"),
        "label added": lambda: fakes.write(folder / "b.json", "{}"),
        "label changed": lambda: fakes.write(folder / "b.json", '{"licence": "own"}'),
        "renamed": lambda: (folder / "a.mp4").rename(folder / "c.mp4"),
        "label removed": lambda: (folder / "b.json").unlink(),
        "removed": lambda: (folder / "b.mp4").unlink(),
    }
    for what, change in changes.items():
        change()
        seen, known, problems = standing.observe(known)
        assert (what, seen, problems) == (what, ["one"], [])
        assert (what, standing.tick()) == (what, {"raw_videos": {"one"}})
    assert standing.observe(known)[0] == []


def test_files_copied_one_after_the_other_are_all_seen(root, standing):
    """Each look sees one more file, while the run that the first one asked for has or has not begun."""
    known = standing.known
    asked = []
    for number in range(3):
        fakes.write(root / "videos" / "one" / f"new-{number}.mp4", f"video {number}")
        _, known, _ = standing.observe(known)
        asked.append(standing.tick())
    assert asked == [{"raw_videos": {"one"}}] * 3
    assert standing.tick() == {}


def test_change_during_a_run_is_made_up_for_after_it(root, standing):
    key, run = dg.AssetKey("raw_videos"), begin(standing, "raw_videos", shard="one")
    fakes.write(root / "videos" / "one" / "late.mp4", "late")
    standing.observe(standing.known)
    assert standing.tick() == standing.tick() == {}
    standing.made("raw_videos", "one", "2")
    standing.instance.report_run_failed(run)  # ended, however
    assert standing.tick()[key.to_user_string()] == {"one"}


def test_stages_of_one_run_are_not_asked_for_again_after_it(root, standing):
    """The run takes several looks: inputs change while what reads them is still to come in the same run."""
    fakes.write(root / "videos" / "one" / "new.mp4", "new")
    standing.observe(standing.known)
    standing.tick()
    standing.made("raw_videos", "one", "2")
    names = [stage.name for stage in PER_SHARD[1:]]
    assert standing.tick() == {name: {"one"} for name in names}
    run = begin(standing, *names, shard="one")
    for name in names:
        standing.made(name, "one", "2", run)
        assert not {asked for asked in standing.tick() if asked in names}
    standing.instance.report_run_failed(run)
    for _ in range(3):
        assert not set(standing.tick()) & set(names)


def begin(daemon, *names, shard):
    """A run of these assets that has started and made nothing yet."""
    job = daemon.defs.resolve_implicit_global_asset_job_def()
    selection = frozenset(dg.AssetKey(name) for name in names)
    return daemon.instance.create_run_for_job(
        job.get_subset(asset_selection=selection), tags={"dagster/partition": shard}, asset_selection=selection,
        status=dg.DagsterRunStatus.STARTED,
    )  # fmt: skip


def test_a_new_time_or_a_stranger_file_is_no_change(root, standing):
    os.utime(root / "videos" / "one" / "a.mp4")
    fakes.write(root / "videos" / "one" / "notes.txt", "not a video, not a label")
    seen, known, _ = standing.observe(standing.known)
    assert seen == []
    assert standing.tick() == {}
    assert known != standing.known, "the new file list is remembered, so that it is not hashed at every tick"


def test_changed_code_reruns_the_stages_that_use_it_once_the_location_is_reloaded(root, standing):
    fakes.write(root / "code" / "mano_fits.py", "# better hands\n")
    assert standing.tick() == {}
    standing.reload()
    assert standing.tick() == {"mano_fits": set(fakes.SHARDS)}
    for shard in fakes.SHARDS:
        standing.made("mano_fits", shard, "2" if shard == "one" else "1")
    readers = {stage.name for stage in PER_SHARD if "mano_fits" in stage.reads}
    asked = standing.tick()
    assert {name: shards for name, shards in asked.items() if name in readers} == {name: {"one"} for name in readers}
    assert set(asked) == readers


def test_changed_parameter_reruns_its_stage_only(root, standing):
    text = (root / "params.yaml").read_text(encoding="utf-8")
    fakes.write(root / "params.yaml", text.replace("0.3", "0.4"))
    standing.reload()
    assert standing.tick() == {"mano_fits": set(fakes.SHARDS)}


def test_added_shard_is_made_and_removed_shard_is_noticed_by_what_reads_all(root, standing):
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    params["shards"]["three"] = {"source": "three", "kind": "folder", "root": "videos/three"}
    fakes.write(root / "videos" / "three" / "a.mp4", "third")
    fakes.write(root / "params.yaml", yaml.safe_dump(params, sort_keys=False))
    standing.reload()
    assert standing.observe(standing.known)[0] == ["three"]
    for _ in range(2):
        asked = standing.tick()
        assert set().union(*asked.values()) == {"three"}
        for stage in PER_SHARD:
            if stage.name in asked:
                standing.made(stage.name, "three")
        if len(asked) == len(PER_SHARD):
            break
    del params["shards"]["three"], params["shards"]["two"]
    fakes.write(root / "params.yaml", yaml.safe_dump(params, sort_keys=False))
    standing.reload()
    readers = {s.name for s in OVERALL if any(stage.name in s.reads for stage in PER_SHARD)}
    asked = standing.tick()
    assert asked
    assert set(asked) <= readers


def test_failed_stage_is_not_asked_for_again_and_again(root, instance, monkeypatch):
    monkeypatch.setattr(outside.Report, "load", lambda _: outside.Report())
    daemon = Daemon(root, instance)
    daemon.observe({})
    daemon.tick()
    assert "raw_videos" in daemon.tick()
    fakes.write(root / fakes.FAIL, "raw_videos one\nraw_videos two")
    job = daemon.defs.resolve_job_def("label_shard")
    for shard in fakes.SHARDS:
        job.execute_in_process(
            instance=instance,
            partition_key=shard,
            asset_selection=[dg.AssetKey("raw_videos")],
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    for _ in range(3):
        assert "raw_videos" not in daemon.tick()
    fakes.write(root / "videos" / "two" / "a.mp4", "another video")
    daemon.observe({})
    assert daemon.tick()["raw_videos"] == {"two"}, "a change is worth another try"


def test_code_version_of_overall_stages_knows_the_shards(root):
    before = {stage.name: version_of_code(stage, settings(root)) for stage in STAGES}
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    del params["shards"]["two"]
    fakes.write(root / "params.yaml", yaml.safe_dump(params, sort_keys=False))
    changed = {stage.name for stage in STAGES if version_of_code(stage, settings(root)) != before[stage.name]}
    assert changed == {s.name for s in OVERALL if any(stage.name in s.reads for stage in PER_SHARD)}
