"""`python -m dagster_project.screenshots`: pictures of the real UI on a finished workspace, for docs/operations.md.

Everything happens in a copy of the workspace beside it (data by hard links), which is removed afterwards: there a clip
is taken out of a shard, which then is stale and re-run, and depth is written in a wrong unit, which a check refuses.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dagster_project import browser, home, ui
from dagster_project.jobs import LABEL_SHARD
from ops import config, tracking

OUT = Path(__file__).parent.parent / "docs" / "pictures" / "ui"
LEFT_OUT = (".venv", ".git", "dvc.lock.*", "__pycache__", "report.html")
MAX_BYTES = 200_000
SETTLE_MS = 2500  # between two looks at whether a page has come to rest
STILL_S = 240
GROUPS = ("clips", "geometry", "hand3d", "training", "scores")
UNROLL = """cell => {
    let box = cell
    while (box && box.scrollHeight <= box.clientHeight + 4) box = box.parentElement
    if (box) box.style.maxHeight = box.style.height = box.style.flex = 'none'
}"""
"""Show all of a list that scrolls by itself."""
MAIN_GROUPS = 'not group:"upkeep"'
RENDERED = "synthetic-00"  # pictures of it may be passed on
SHARD = "synthetic-01"  # of the demo: small, with labels and depth
DEPTH = "depth_tenth_mm"


def main() -> int:
    """Exit code 1 where the workspace is not finished or there is no browser."""
    parser = argparse.ArgumentParser(prog="python -m dagster_project.screenshots", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("HAND3D_ROOT", ".")), help="workspace")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the pictures")
    options = parser.parse_args()
    try:
        with copied(options.root.resolve()) as root:
            take_all(root, options.out)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"screenshots: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A copy to play with, on the same disk. Raises ValueError for a workspace without a champion."""
    if SHARD not in config.load(root / "params.yaml").shards or not (root / "data" / "champion").is_dir():
        raise ValueError(f"{root} is no finished workspace of the demo: run `make demo` first")
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f"{root.name}-pictures-") as folder:
        copy = Path(folder) / root.name
        shutil.copytree(root, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT, "data", "cache"))
        for part in ("data", ".dvc/cache"):
            if (root / part).is_dir():
                shutil.copytree(root / part, copy / part, symlinks=True, copy_function=os.link)
        yield copy


def take_all(root: Path, out: Path) -> None:
    """Serve the workspace and take every picture; out: made where it is missing."""
    out.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(root / ".dagster")
    home.prepare(root)
    with ExitStack() as stack:
        dagster, mlflow = serve(root, stack)
        page = stack.enter_context(browser.opened())
        of_the_graph(page, dagster, out)
        of_assets(page, dagster, out)
        of_a_rerun(page, dagster, root, out)
        of_a_refusal(page, dagster, root, out)
        of_mlflow(page, mlflow, root, out)


def serve(root: Path, stack: ExitStack) -> tuple[str, str]:
    """Addresses of both servers, as `make ui` starts them, on free ports."""
    paths = [str(root), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "MLFLOW_DISABLE_TELEMETRY": "true"}
    ports = browser.free_port(), browser.free_port()
    dagster, mlflow = (f"http://127.0.0.1:{port}" for port in ports)
    asked = {"Dagster": f"{dagster}/server_info", "MLflow": f"{mlflow}/health"}
    for name, command in ui.commands(root, *ports).items():
        stack.enter_context(browser.serving(command, root, asked[name], environment, root / f"{name}.log"))
    return dagster, mlflow


def of_the_graph(page, address: str, out: Path) -> None:
    """The stages from top to bottom, by name; and nearer up the first two groups, where each says in what state it is."""
    page.goto(address)
    page.evaluate("localStorage.setItem('asset-graph-direction', JSON.stringify('vertical'))")
    page.get_by_text("Hide navigation").click()
    page.set_viewport_size({"width": 1700, "height": 2000})  # names in full size, and no more than names
    with page.expect_response(tells_state, timeout=STILL_S * 1000):  # asked for when an asset is drawn, it comes late
        browser.graph(page, address, MAIN_GROUPS)
    shoot(page, out / "asset-graph.png", around(page, *GROUPS))
    page.set_viewport_size({"width": 2600, "height": 3300})
    page.reload()  # which fits the graph into the window
    browser.node(page, "champion").wait_for()
    browser.gone(page.locator("foreignObject").get_by_text("Loading"))
    shoot(page, out / "asset-graph-state.png", around(page, *GROUPS[:2], above=GROUPS[2]))
    usual_window(page)


def tells_state(answer) -> bool:
    """Whether it is the answer to the graph's question which assets are materialised and which stale."""
    return "AssetStaleStatusDataQuery" in (answer.request.post_data or "")


def usual_window(page) -> None:
    page.set_viewport_size(dict(zip(("width", "height"), browser.WINDOW, strict=True)))


def around(page, *groups: str, above: str | None = None) -> dict[str, float]:
    """The part of the screen that shows these groups of the graph, as playwright's clip. above: the group that lies over
    the last one's lower end."""

    def box(group: str) -> dict[str, float]:
        return page.locator("foreignObject", has_text=re.compile(f"^{group}$")).bounding_box()

    boxes = [box(group) for group in groups]
    left, top = (min(found[side] for found in boxes) - 12 for side in ("x", "y"))
    right = max(found["x"] + found["width"] for found in boxes) + 12
    bottom = box(above)["y"] if above else max(found["y"] + found["height"] for found in boxes) + 12
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


def of_assets(page, address: str, out: Path) -> None:
    """Two assets with their pictures, the columns of one and where they come from."""
    for name in ("mano_fits", "hand3d_visual"):
        partition(page, address, name, RENDERED)
        if name == "mano_fits":
            shoot(page, out / f"{name}.png")
        page.set_viewport_size({"width": browser.WINDOW[0], "height": 1200})  # the whole picture
        browser.words(page, "[Show Markdown]").click()  # Dagster folds away Markdown of more than 1,000 characters
        page.locator("img[src^='data:image/png']").first.wait_for()
        shoot(page, out / f"{name}-picture.png")
        usual_window(page)
    page.goto(f"{address}/assets/hand3d_visual?view=overview")
    browser.words(page, "distance_m").scroll_into_view_if_needed()
    shoot(page, out / "columns.png")


def of_a_rerun(page, address: str, root: Path, out: Path) -> None:
    """A clip is taken out of a shard; its partition is stale, and is made again."""
    clip = max((root / "data" / "raw" / SHARD).glob("*.mp4"))
    for path in (clip, clip.with_suffix(".npz")):
        path.unlink()
    report_sources(root)
    partition(page, address, "raw_videos", SHARD)
    page.get_by_text("Unsynced (1)").hover()
    page.get_by_text(re.compile("has a new data version")).wait_for()
    shoot(page, out / "stale-partition.png")
    rerun(page, address, "Success")
    shoot(page, out / "rerun.png")


def of_a_refusal(page, address: str, root: Path, out: Path) -> None:
    """Depth of a shard is written in a unit ten times too large."""
    import numpy as np

    for path in sorted((root / "data" / "raw" / SHARD).glob("*.npz")):
        arrays = dict(np.load(path))
        arrays[DEPTH] //= 10
        path.unlink()  # a hard link: the workspace's own stays as it is
        np.savez_compressed(path, **arrays)
    report_sources(root)
    partition(page, address, "raw_videos", SHARD)
    rerun(page, address, "Failure")
    page.goto(f"{address}/assets/raw_videos?view=checks&checkDetail=camera_direction")
    browser.words(page, "Failed").wait_for()
    shoot(page, out / "failed-check.png")


def of_mlflow(page, address: str, root: Path, out: Path) -> None:
    """A training run with its curves, and the champion's page."""
    name = config.load(root / "params.yaml").champion.model_name
    version = tracking.get_alias(root, name, "champion")
    run = tracking.version_run_id(root, name, version)
    page.goto(f"{address}/#/experiments/{tracking.experiment_id(root)}/runs/{run}/model-metrics")
    page.locator(".js-plotly-plot").nth(4).wait_for()
    page.get_by_role("button", name="Close", exact=True).click()  # of an assistant, which is not set up
    page.get_by_text("stage3").first.evaluate("title => title.scrollIntoView({block: 'start'})")
    page.locator(".js-plotly-plot").last.wait_for()
    shoot(page, out / "mlflow-run.png")
    page.goto(f"{address}/#/models/{name}/versions/{version}")
    page.set_viewport_size({"width": browser.WINDOW[0], "height": 1400})
    page.get_by_text("dvc_md5").first.evaluate(UNROLL)
    page.get_by_text("git_commit").first.wait_for()
    shoot(page, out / "mlflow-model-version.png")


def partition(page, address: str, name: str, shard: str) -> None:
    """Its row of the catalogue, with every cell filled: notes and tables are drawn after the rest."""
    page.goto(f"{address}/assets/{name}?view=partitions&partition={shard}")
    browser.words(page, "dvc_hash").wait_for()
    late = page.locator("tr", has=page.locator("td:first-child", has_text=re.compile("^(notes|table/)")))
    for _ in browser.tries(STILL_S, f"{name} of {shard}: not every cell was filled"):
        if all(text.strip() for text in late.locator("> td:nth-child(2)").all_inner_texts()):
            return
        page.wait_for_timeout(200)


def rerun(page, address: str, status: str) -> None:
    """The shard's whole chain, from the job's page."""
    page.goto(f"{address}/locations/dagster_project.definitions/jobs/{LABEL_SHARD}")
    browser.materialise(page, SHARD)
    browser.finished(page, address, status)


def report_sources(root: Path) -> None:
    """What the sensor source_changes does once a minute."""
    import dagster as dg

    from dagster_project import sensors

    settings = config.load(root / "params.yaml")
    with dg.DagsterInstance.get() as instance:
        for event in sensors.changes(settings, root, {})[0]:
            instance.report_runless_asset_event(event)


def shoot(page, path: Path, clip: dict[str, float] | None = None) -> None:
    """Save what is on the screen, in as many colours as 200 kB hold. clip: a part of it. Raises ValueError where 16
    colours are too many."""
    from PIL import Image

    still(page, path, clip)
    with Image.open(path) as found:
        picture = found.convert("RGB")
    for colours in (256, 128, 64, 32, 16):
        picture.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < MAX_BYTES:
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, {colours} colours", flush=True)
            return
    raise ValueError(f"{path.name} has {path.stat().st_size} bytes, more than {MAX_BYTES}")


def still(page, path: Path, clip: dict[str, float] | None) -> None:
    """Save the screen once nothing moves on it any more: no wheel turns, nothing more is drawn. Raises TimeoutError."""
    before = b""
    for _ in browser.tries(STILL_S, f"{path.name}: the page did not come to rest"):
        page.wait_for_timeout(SETTLE_MS)
        now = page.screenshot(path=path, clip=clip)
        if now == before:
            return
        before = now


if __name__ == "__main__":
    sys.exit(main())
