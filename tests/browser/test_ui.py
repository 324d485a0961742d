"""The Dagster UI as people use it, in headless Chromium: materialise by clicks, a check that refuses, what is then stale,
its re-run, pictures, checks and lineage. Stages are the fakes of tests/assets; servers, daemon, run workers and pages
are the real ones, started as `make ui` does.
"""

import os
import re
from pathlib import Path

import pytest

from dagster_project import browser, home, ui
from ops import data_version
from ops.stages import STAGES
from tests.assets import fakes

REPOSITORY = Path(__file__).parents[2]
LOCATION = """import sys
from pathlib import Path

import pytest

sys.path.insert(0, {repository!r})
from tests.assets import fakes

fakes.install(pytest.MonkeyPatch(), Path({root!r}))
from dagster_project.definitions import defs
"""

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A workspace of fakes whose code for hands is wrong."""
    root = fakes.workspace(tmp_path_factory.mktemp("ui"))
    fakes.write(root / "code" / "mano_fits.py", f"# {fakes.HUGE}\n")
    fakes.write(root / "location.py", LOCATION.format(repository=str(REPOSITORY), root=str(root)))
    return root


@pytest.fixture(scope="module")
def address(root):
    """Of the webserver, its daemon beside it."""
    port = browser.free_port()
    with pytest.MonkeyPatch.context() as patch:
        fakes.install(patch, root)
        home.prepare(root)
        data_version.prepare(root)
        address = f"http://127.0.0.1:{port}"
        with browser.serving(command(root, port), root, f"{address}/server_info", dict(os.environ), root / "log.txt"):
            yield address


def command(root: Path, port: int) -> list[str]:
    """What `make ui` runs, on a port of its own and with the fakes' definitions."""
    changed = {"-m": "-f", "dagster_project.definitions": str(root / "location.py")}
    found = ui.commands(root, port)["Dagster"]
    assert set(changed) <= set(found), found
    return [changed.get(word, word) for word in found]


@pytest.fixture(scope="module")
def page():
    pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    if browser.chromium() is None:
        pytest.skip(
            "needs Chromium: apt-get install chromium, or as root HAND3D_BROWSER_TESTS=1 infra/system-packages.sh"
        )
    with browser.opened() as page:
        yield page


def test_a_day_at_the_ui(page, root, address):
    """One story, as pages are slow to open: each step stands on the one before."""
    browser.graph(page, address)
    written = " ".join(page.locator("foreignObject div").all_inner_texts()).split()
    for stage in STAGES:  # long names are drawn with an ellipsis
        assert any(re.fullmatch(re.escape(word).replace("…", ".+"), stage.name) for word in written), stage.name

    browser.node(page, "raw_videos").click()
    browser.node(page, "mano_fits").click(modifiers=["Meta"])
    browser.materialise(page, "one")
    browser.finished(page, address, "Failure")

    page.goto(f"{address}/assets/raw_videos?partition=one&view=partitions")
    browser.words(page, "Materialized").wait_for()
    picture = page.locator("img[src^='data:image/png']").first
    picture.wait_for(state="attached")
    assert picture.evaluate("image => image.naturalWidth") == 8
    page.goto(f"{address}/assets/mano_fits?view=checks&checkDetail=hand_sized")
    browser.words(page, "Failed").wait_for()
    browser.words(page, re.compile("0.0% of hands have a palm of 50 to 140 mm; median 900 mm")).wait_for()

    fakes.write(root / "code" / "mano_fits.py", "# mended\n")
    page.goto(f"{address}/asset-groups")
    with page.expect_response(lambda answer: "eload" in (answer.request.post_data or "")[:200]):
        page.get_by_role("button", name="Reload definitions").click()
    page.goto(f"{address}/assets/mano_fits?partition=one&view=partitions")
    page.get_by_text("Unsynced (1)").hover()
    page.get_by_text("has a new code version").wait_for()

    browser.materialise(page, "one")
    browser.finished(page, address, "Success")
    page.goto(f"{address}/assets/mano_fits?partition=one&view=partitions")
    browser.words(page, "Materialized").wait_for()
    assert page.get_by_text("Unsynced").count() == 0
    page.goto(f"{address}/assets/mano_fits?view=checks&checkDetail=hand_sized")
    browser.words(page, "Passed").wait_for()

    page.goto(f"{address}/assets/mano_fits?view=lineage")
    for name in ("raw_videos", "mano_fits", "hand3d_action"):
        browser.node(page, name).wait_for()
