"""A store that fails: what passes by itself is tried again, what stays is said, and no altered object is accepted."""

import contextlib
import hashlib
import shutil

import pytest
from botocore.exceptions import FlexibleChecksumError
from dvc.exceptions import DvcException
from dvc_objects.errors import ObjectFormatError

from ops import artefacts, data_version, pipeline
from ops.jobs import files_hash
from tests.trust import world
from tests.trust.faulty_store import FAULTS, FaultyStore

BUCKET = "hand3d"


@pytest.fixture(scope="module")
def store():
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket=BUCKET)
        yield FaultyStore(f"http://{host}:{port}")
    server.stop()


@pytest.fixture(scope="module")
def root(store, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = world.make(tmp_path_factory.mktemp("store"), patch)
        config = root / ".dvc" / "config"
        remote = f"['remote \"store\"']\n    url = s3://{BUCKET}/cache\n    endpointurl = {store.url}\n"
        config.write_text(config.read_text("utf-8").replace("[core]\n", "[core]\n    remote = store\n") + remote)
        data_version.prepare(root)
        assert "verify = true" in config.read_text("utf-8")
        artefacts.make(root, world.settings(root), "raw_videos", "one")
        yield root


def dvc(root, what):
    with data_version._repo(root) as repo:
        return getattr(repo, what)(targets=[data_version._target(root, "raw_videos@one")])


def forget(root):
    shutil.rmtree(root / "data" / "raw_videos")
    shutil.rmtree(root / ".dvc" / "cache" / "files")


def wrong_objects(root):
    return world._cache(root)


@pytest.mark.slow
def test_push_and_pull_through_faults_that_pass(store, root):
    made = files_hash(pipeline.output(root, "raw_videos", "one"))
    store.set("503", 2)
    dvc(root, "push")
    assert store.met == 2
    for fault in FAULTS[:4]:
        forget(root)
        store.set(fault, 1)
        with contextlib.suppress(DvcException):  # what is not tried again is said, and the next pull goes on
            dvc(root, "pull")
        dvc(root, "pull")
        assert store.met == 1, fault
        assert files_hash(pipeline.output(root, "raw_videos", "one")) == made, fault
        assert wrong_objects(root) == [], fault


@pytest.mark.slow
@pytest.mark.parametrize("bare", [False, True])
def test_an_altered_object_is_not_accepted(store, root, bare):
    """The client refuses it by the store's checksum; where the store keeps none, DVC by the object's name."""
    made = files_hash(pipeline.output(root, "raw_videos", "one"))
    store.set("", 0)
    dvc(root, "push")
    forget(root)
    store.set("altered", 10_000)
    store.bare = bare
    with pytest.raises((DvcException, FlexibleChecksumError, ObjectFormatError)):
        dvc(root, "pull")
    store.bare = False
    assert store.met
    assert wrong_objects(root) == []
    folder = pipeline.output(root, "raw_videos", "one")
    assert not folder.exists() or files_hash(folder) == made
    store.set("", 0)
    dvc(root, "pull")
    assert files_hash(folder) == made


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_mlflow_artefacts_through_faults(store, tmp_path, monkeypatch, fault):
    """The part of MLflow that the server of infra/compose.yaml keeps artefacts with."""
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", store.url)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import botocore.exceptions
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    policy = tmp_path / "model.safetensors"
    policy.write_bytes(hashlib.sha256(fault.encode()).digest() * 1000)
    repository = S3ArtifactRepository(f"s3://{BUCKET}/mlflow/{fault}")
    if fault not in ("short", "altered"):
        store.set(fault, 2)
    repository.log_artifact(str(policy))
    store.set(fault, 1)
    got = tmp_path / "got"
    got.mkdir()
    with contextlib.suppress(MlflowException, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
        repository.download_artifacts("model.safetensors", str(got))
    if not (got / "model.safetensors").is_file():  # refused, and not tried again
        repository.download_artifacts("model.safetensors", str(got))
    assert store.met == 1
    assert (got / "model.safetensors").read_bytes() == policy.read_bytes()
