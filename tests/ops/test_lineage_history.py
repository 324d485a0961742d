"""A year of a workspace in small: a policy is registered, a video changes, a participant withdraws, a second policy is
registered. Who was made from what, what must go, and what the cache keeps, are compared with what was written down by hand.
"""

import hashlib

import pytest

from ops import artefacts, config, data_version, dvc_cache, garbage, lineage_record, tracking, withdrawal
from ops.__main__ import main
from ops.stages import STAGES
from tests.assets import fakes
from tests.ops import registry_world as world

pytestmark = pytest.mark.slow

UP_TO = "posttrained_policies"
KEEP = lineage_record.keep


def rows(context, name, schema):
    """As the fakes', but raw_videos has a row for each file of the folder: who is in it is in the file's name."""
    if name != "raw_videos":
        return real_rows(context, name, schema)
    files = sorted((context.root / context.shard_config.root).glob("*.mp4"))
    clips = [
        {
            "clip_id": f"{context.shard}/{file.stem}",
            "sha256": sha(file),
            "split": "test" if file.stem == "test" else "train",
        }
        | {"subject": file.stem, "video": f"videos/{context.shard}/{file.name}", "licence": "consent on file"}
        for file in files
    ]
    return fakes.tables.frame(schema, [fakes.valid_row(schema) | clip for clip in clips])


real_rows = fakes.rows


def sha(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def make(root):
    """Every stage behind the policy, where it is stale; addresses that ran."""
    settings = config.load(root / "params.yaml")
    for stage in [stage for stage in STAGES if stage.name in stages_behind()]:
        for shard in settings.shards if stage.partitioned else [""]:
            address = data_version.address(stage.name, shard)
            if address not in data_version.recorded(root) or address in data_version.stale(root, [address]):
                artefacts.make(root, settings, stage.name, shard)
    return sorted(line.replace(" ", "@") for line in fakes.ran(root))


def register(root, weight):
    version = world.register(root / "elsewhere", weight, root / "data" / UP_TO)
    lineage_record.keep(root, world.MODEL, version, lineage_record.collect(root))
    return version


def objects(root):
    with dvc_cache.opened(root) as cache:
        return set(cache.all())


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    """root, and what was known at each time: its artefacts, objects, clips' hashes, and what ran."""
    root = tmp_path_factory.mktemp("past")
    patch = pytest.MonkeyPatch()
    fakes.workspace(root, ("one",))
    fakes.install(patch, root)
    patch.setattr(fakes, "rows", rows)
    patch.setattr("ops.lineage_record.keep", KEEP)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{world.store(root)}/mlflow.db")
    (root / "elsewhere").mkdir()
    videos = root / "videos" / "one"
    (videos / "a.mp4").unlink()
    for name in ("anna", "ben", "test"):
        fakes.write(videos / f"{name}.mp4", f"video of {name}")
    data_version.prepare(root)
    known = {"hash": {name: sha(videos / f"{name}.mp4") for name in ("anna", "ben", "test")}}
    make(root)
    known["first"] = register(root, 1.0), content(root / "data"), objects(root)
    fakes.write(videos / "ben.mp4", "another video of ben")
    artefacts.make(root, config.load(root / "params.yaml"), "raw_videos", "one")  # and nothing after it
    fakes.ran(root)
    known["between"] = objects(root)
    known["listed"] = withdrawal.uses(root, withdrawal.clips(root, "subject:anna"))
    (videos / "anna.mp4").unlink()
    known["ran"] = make(root)
    known["second"] = register(root, 2.0), content(root / "data"), objects(root)
    yield root, known
    patch.undo()


def test_records_are_no_stages_of_the_workspace(past):
    """The registry's files lie in it."""
    root, _ = past
    assert list(root.rglob("mlruns/**/lineage/*/dvc.yaml*"))
    with data_version._repo(root) as repo:
        assert {stage.path_in_repo for stage in repo.index.stages} == {"dvc.yaml"}


def test_what_is_listed_is_what_runs_again_when_the_video_is_removed(past):
    _, known = past
    assert known["ran"] == sorted(use.artefact for use in known["listed"])
    assert len(known["ran"]) > 10


def test_a_video_that_is_gone_is_still_found_in_what_was_registered(past, capsys):
    root, known = past
    assert main(["uses", "subject:anna", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert f"sha256 {known['hash']['anna'][:10]}  (no longer in raw_videos)" in said
    assert "registered version 1" in said
    assert "trained on it" in said.split("registered version 1")[1].splitlines()[0]
    assert said.split("registered version 2")[1].splitlines()[0].split()[0] == "no"


@pytest.mark.parametrize(
    ("wanted", "used"),
    [("subject:test", ["scored on it", "scored on it"]), ("subject:ben", ["trained on it", "trained on it"])],
)
def test_versions_are_asked_by_the_bytes_of_the_video(past, wanted, used):
    root, _ = past
    found = withdrawal.clips(root, wanted, withdrawal.kept_clips(root, world.MODEL))
    assert [item.used for item in withdrawal.registered(root, world.MODEL, found)] == used


def test_the_first_recording_of_a_clip_went_into_the_first_version_only(past):
    root, known = past
    kept = withdrawal.kept_clips(root, world.MODEL)
    found = withdrawal.clips(root, known["hash"]["ben"][:12], kept)
    assert [item.used for item in withdrawal.registered(root, world.MODEL, found)] == ["trained on it", "no"]


def test_lineage_of_each_version_is_that_of_its_time(past, capsys):
    root, known = past
    tracking.set_alias(root, world.MODEL, "champion", 1)
    assert main(["lineage", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "version 1 (champion)" in said
    assert known["hash"]["anna"][:10] in said
    assert known["hash"]["ben"][:10] in said
    assert "consent on file (3 clips" in said
    assert main(["lineage", "--version", "2", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert known["hash"]["anna"][:10] not in said
    assert known["hash"]["ben"][:10] not in said
    assert sha(root / "videos" / "one" / "ben.mp4")[:10] in said


def test_nothing_is_removed_that_a_version_was_made_from(past, tmp_path, capsys):
    root, known = past
    rubbish = known["between"] - known["first"][2] - known["second"][2]
    shared = objects(root) - rubbish
    assert main(["gc", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "kept for 2 registered versions" in said
    assert f"would be removed from cache: {count(root)} objects" in said
    assert objects(root) == shared | rubbish, "only said"
    assert main(["gc", "--delete", "--root", str(root)]) == 0
    left = objects(root)
    version, before, _ = known["first"]
    assert main(["checkout", str(version), str(tmp_path / "old"), "--root", str(root)]) == 0
    found = content(tmp_path / "old" / "data")
    assert found == {name: data for name, data in before.items() if name.split("/")[0] in stages_behind()}
    assert data_version.stale(root, ["raw_videos@one", UP_TO]) == {}
    with dvc_cache.opened(root) as cache:
        used = dvc_cache.listing(cache, data_version.recorded_version(root, UP_TO))
    assert set(used.values()) <= left
    assert garbage.collect(root, delete=False).num_removed == 0
    with pytest.MonkeyPatch.context() as patch:  # a version that is deleted in the registry holds nothing any more
        patch.setattr(tracking, "versions", lambda *_: [2])
        assert garbage.collect(root).num_removed == count(root, versions=(2,)) > 0


def count(root, versions=(1, 2)):
    """Objects that neither these versions nor the workspace have, counted from the listings one by one."""
    lock = data_version.recorded(root)
    workspace = {out["md5"] for entry in lock.values() for out in entry["outs"]}
    with dvc_cache.opened(root) as cache:
        for version in list(workspace):
            workspace |= set(dvc_cache.listing(cache, version).values())
        records = [lineage_record.of_version(root, world.MODEL, version) for version in versions]
        kept = {out["md5"] for record in records for entry in record.lock.values() for out in entry["outs"]}
        for version in list(kept):
            kept |= set(dvc_cache.listing(cache, version).values())
    return len(objects(root) - workspace - kept)


def stages_behind():
    """By the list of stages alone: what the policy reads, and what that reads."""
    by_name, queue, seen = {stage.name: stage for stage in STAGES}, [UP_TO], set()
    while queue:
        name = queue.pop()
        seen.add(name)
        queue += [read for read in by_name[name].reads if read not in seen]
    return seen
