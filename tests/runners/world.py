"""Small workspaces for the runners, and one asset materialised through Dagster with a runner of choice."""

import sys
from pathlib import Path

import dagster as dg
import numpy as np
import yaml

from dagster_project import definitions
from ops import data_version
from tests.assets import fakes

REPOSITORY = Path(__file__).parents[2]
SHARD = "one"


def materialise(root: Path, runner, stage: str, shard: str = SHARD) -> dg.ExecuteInProcessResult:
    """One partition of the real asset with this runner; the result of the run, failed or not."""
    defs = definitions.build(root)
    job = dg.Definitions(assets=defs.assets, jobs=defs.jobs, resources={"runner": runner}).resolve_job_def(
        "label_shard"
    )
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(
            partition_key=shard, asset_selection=[dg.AssetKey(stage)], raise_on_error=False, instance=instance
        )


def version_of(result: dg.ExecuteInProcessResult) -> str:
    """Data version that the catalogue got."""
    (event,) = result.get_asset_materialization_events()
    return event.step_materialization_data.materialization.tags["dagster/data_version"]


def metadata_of(result: dg.ExecuteInProcessResult) -> dict:
    (event,) = result.get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    return {key: value.value for key, value in metadata.items() if key not in ("seconds", "folder")}


def fake_python(root: Path) -> str:
    """Stands for the interpreter in `python -m assets.piped ...`: the same entry, on fake stages."""
    script = root / "bin" / "python"
    fakes.write(
        script,
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(REPOSITORY)!r})\nfrom pathlib import Path\n"
        "import pytest\nfrom tests.assets import fakes\nfrom assets import piped\n"
        f"with pytest.MonkeyPatch.context() as patch:\n    fakes.install(patch, Path({str(root)!r}))\n"
        "    sys.exit(piped.main(sys.argv[3:]))\n",
    )
    script.chmod(0o755)
    return str(script)


def real(root: Path) -> Path:
    """A workspace with one shard of two small videos, one of which is no video, for the real stage raw_videos."""
    import av

    folder = root / "videos" / SHARD
    folder.mkdir(parents=True)
    with av.open(str(folder / "a.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        rng = np.random.default_rng(5)
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), np.uint8), "rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    side = '{"fx": 60.0, "fy": 60.0, "cx": 32.0, "cy": 24.0, "licence": "made for a test"}'
    fakes.write(folder / "a.json", side)
    fakes.write(folder / "broken.mp4", "no video")
    fakes.write(folder / "broken.json", side)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    params["shards"] = {SHARD: {"source": SHARD, "kind": "folder", "root": f"videos/{SHARD}"}}
    fakes.write(root / "params.yaml", yaml.safe_dump(params, sort_keys=False))
    data_version.prepare(root)
    return root
