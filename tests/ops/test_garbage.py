"""Nothing is removed from DVC's cache or remote unless it is known what every registered version needs."""

from uuid import uuid4

import pytest

from ops import artefacts, config, data_version, dvc_cache, garbage, lineage_record, tracking
from ops.__main__ import main
from tests.assets import fakes
from tests.ops import registry_world as world

NAME = f"{world.MODEL}/1"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return fakes.ready(tmp_path, monkeypatch, ("one",))


def remake(root, text):
    """raw_videos of a changed video: what was made before is garbage."""
    fakes.write(root / "videos" / "one" / "a.mp4", text)
    return artefacts.make(root, config.load(root / "params.yaml"), "raw_videos", "one").version


def objects(root):
    with dvc_cache.opened(root) as cache:
        return set(cache.all())


def said_of_gc(root, capsys, *arguments, code=1):
    before = objects(root)
    assert main(["gc", "--delete", *arguments, "--root", str(root)]) == code
    if code:
        assert objects(root) == before, "nothing was removed"
    out = capsys.readouterr()
    return out.err if code else out.out


def test_nothing_is_removed_when_the_registry_cannot_be_read(root, monkeypatch, capsys):
    remake(root, "first")
    remake(root, "second")
    monkeypatch.setattr(data_version, "recorded", lambda _: {"champion": {}})
    assert "there is no registry at" in said_of_gc(root, capsys)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://name:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = said_of_gc(root, capsys)
    assert "cannot be read" in said
    assert "http://...@127.0.0.1:9 cannot" in said, "without the secret"


def test_a_version_without_a_record_stops_it_until_it_is_given_up(root, capsys):
    old = remake(root, "first")
    remake(root, "second")
    world.store(root)
    world.register(root, 1.0, dvc_md5=old)  # as if that were its checkpoint
    assert f"{NAME}: it was registered without a record of its lineage" in said_of_gc(root, capsys)
    said_of_gc(root, capsys, "--give-up", NAME, code=0)
    with dvc_cache.opened(root) as cache:
        assert dvc_cache.listing(cache, old), "what is known of it is kept"


def test_a_lost_listing_stops_it(root, capsys):
    old = remake(root, "first")
    remake(root, "second")
    world.store(root)
    record = lineage_record.collect(root, "raw_videos@one")
    record.lock["raw_videos@one"]["outs"][0]["md5"] = old
    kept = lineage_record.Record(
        record.lock, [], record.clips, [], record.files | {"dvc.lock": "stages: " + str(dict(record.lock))}
    )
    world.register(root, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineage_record, "every", lambda *_: [kept])
        assert old in garbage.referred(root).outputs
        with dvc_cache.opened(root) as cache:
            from pathlib import Path

            Path(cache.oid_to_path(old)).unlink()
        assert "holds the listing of raw_videos@one" in said_of_gc(root, capsys)
        said_of_gc(root, capsys, "--give-up", NAME, code=0)


def test_other_peoples_models_in_a_shared_registry_do_not_count(root):
    world.store(root)
    store = tracking.client(root)
    store.create_registered_model("somebody's")
    with tracking.start_run(root, "x", config.load(root / "params.yaml").stage1, {}) as run:
        pass
    store.create_model_version("somebody's", "file:///nowhere", run.run_id)
    assert garbage.referred(root).versions == []


def test_without_a_registry_the_workspace_alone_is_kept(root, capsys):
    remake(root, "first")
    before = objects(root)
    now = remake(root, "second")
    garbage_now = len(objects(root) - before) and len(before - _used(root, now))
    assert f"removed from cache: {garbage_now} objects" in said_of_gc(root, capsys, code=0)
    assert data_version.stale(root, ["raw_videos@one"]) == {}
    assert not (root / "mlflow.db").exists(), "asking made no empty registry"


def _used(root, version):
    with dvc_cache.opened(root) as cache:
        return {version, *dvc_cache.listing(cache, version).values()}


@pytest.mark.slow
def test_a_remote_is_collected_the_same_way(root, monkeypatch, capsys):
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    address = "http://{}:{}".format(*server.get_host_and_port())
    name = f"hand3d-{uuid4().hex[:12]}"  # DVC remembers across repositories what lies under a remote's URL
    try:
        import boto3

        bucket = boto3.resource("s3", endpoint_url=address).create_bucket(Bucket=name)
        settings = f"""['remote "store"']\n    url = s3://{name}/cache\n    endpointurl = {address}\n"""
        with (root / ".dvc" / "config.local").open("a", encoding="utf-8") as file:
            file.write(settings)
        for text in ("first", "second"):
            version = remake(root, text)
            with data_version._repo(root) as repo:
                repo.push(remote="store")
        keys = {entry.key.removeprefix("cache/files/md5/").replace("/", "", 1) for entry in bucket.objects.all()}
        used = _used(root, version)
        assert used < keys
        assert main(["gc", "--remote", "store", "--root", str(root)]) == 0
        assert f"would be removed from store: {len(keys - used)} objects" in capsys.readouterr().out
        assert len(list(bucket.objects.all())) == len(keys)
        assert main(["gc", "--remote", "store", "--delete", "--root", str(root)]) == 0
        assert {
            entry.key.removeprefix("cache/files/md5/").replace("/", "", 1) for entry in bucket.objects.all()
        } == used
        assert objects(root) > used, "the cache was not asked for"
    finally:
        server.stop()
