"""The UI as a person uses it, in headless Chromium: for `make screenshots` and the browser test.

Names are found as they are read on the screen. Dagster draws a hidden twin of most texts to measure them, so only what
is visible counts.
"""

import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from dagster_project import ui

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
START_S, RUN_S, CLICK_S, END_S = 240, 240, 60, 30  # on two cores that others use as well
WINDOW = 1500, 1000


def chromium() -> str | None:
    """Path of the system's Chromium; None where there is none (playwright's own download is not used)."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def opened(width: int = WINDOW[0], height: int = WINDOW[1]) -> Iterator:
    """A page of a new browser. Raises FileNotFoundError saying what to install."""
    from playwright.sync_api import sync_playwright

    program = chromium()
    if program is None:
        raise FileNotFoundError("no Chromium on PATH: on Debian or Ubuntu `sudo apt-get install chromium`")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(CLICK_S * 1000)
        yield page
        browser.close()


@contextmanager
def serving(command: list[str], root: Path, address: str, environment: dict[str, str], log: Path) -> Iterator[None]:
    """A server of `ui.commands`, in a process group of its own that ends with the block. Raises RuntimeError with the
    end of its log where it does not answer in time."""
    with log.open("wb") as out:
        streams = {"stdout": out, "stderr": subprocess.STDOUT}
        server = subprocess.Popen(
            command, cwd=root, env=environment, **streams, start_new_session=True, preexec_fn=ui.hear
        )
        try:
            _wait(address, server, log)
            yield
        finally:
            ui.end([server], END_S)


def _wait(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    end = log.read_text(encoding="utf-8", errors="replace")[-3000:]
    raise RuntimeError(f"nothing answers at {address} after {START_S} s; {log} ends with:\n{end}")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def words(scope, text: str | re.Pattern):
    """The first visible place where exactly this is written. scope: a page or a part of one."""
    return scope.get_by_text(text, exact=True).filter(visible=True).first


def node(page, name: str):
    """An asset in the graph."""
    return words(page.locator("foreignObject"), name)


def gone(places) -> None:
    """Wait until nothing is left there. Raises AssertionError after RUN_S."""
    from playwright.sync_api import expect

    expect(places).to_have_count(0, timeout=RUN_S * 1000)


def tries(limit_s: float, failed: str) -> Iterator[None]:
    """For a loop that looks until it has found, then leaves. Raises TimeoutError, saying what failed, after limit_s."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        yield
    raise TimeoutError(f"{failed} in {limit_s} s")


def graph(page, address: str, selection: str = "*") -> None:
    """Open the asset graph with all of its groups unfolded. selection: in Dagster's language."""
    page.goto(f"{address}/asset-groups~{quote(selection, safe='')}")
    page.locator("foreignObject").first.wait_for()
    page.keyboard.press("Alt+e")
    node(page, "champion").wait_for()


def materialise(page, partition: str) -> None:
    """Press Materialize of what the page shows or has selected, choose the partition, launch."""
    from playwright.sync_api import TimeoutError as NotThereError

    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    dialog = page.get_by_role("dialog").first
    chosen = words(dialog, "1 partition")
    for _ in tries(CLICK_S, f"partition {partition} could not be chosen"):
        if chosen.is_visible():  # on a partition's own page the dialog chooses it by itself, a moment after it opens
            break
        with suppress(NotThereError):
            dialog.get_by_text("Select a partition or create one").click(timeout=3000)
            page.get_by_text(re.compile(r"^Select all \(")).first.wait_for(timeout=5000)  # the list is open
            words(page.get_by_role("dialog").last, partition).click(timeout=5000)
            chosen.wait_for(timeout=3000)
            page.keyboard.press("Escape")
    page.get_by_role("button", name="Launch 1 run").click()
    dialog.wait_for(state="hidden")


def finished(page, address: str, status: str) -> None:
    """Open the newest run and wait until it has this status. Raises playwright's TimeoutError."""
    page.goto(f"{address}/runs")
    run = page.locator("a[href^='/runs/']").filter(visible=True).first.get_attribute("href")
    page.goto(f"{address}{run}")
    words(page, status).wait_for(timeout=RUN_S * 1000)
