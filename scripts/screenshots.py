"""Takes the documentation's pictures of the UI, in a real browser, of an installation with finished rounds.

    python scripts/screenshots.py --home .selfimp

The installation has two rounds of the campaign `arithmetic`, as `make demo` leaves them, and no round under
way. A picture whose subject is not on its page is an error that names it: a picture that shows something else
is never written.
"""

import argparse
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MOST_BYTES = 200_000
ASSETS = (
    "incumbent_policy",
    "generated_corpus",
    "selected_subset",
    "checkpoint",
    "refined_outputs",
    "eval_report",
    "round_ledger",
)
AUTOMATIONS = ("next_round_sensor", "nightly_round", "oversight_sensor", "webhook_sensor")
_START_SECONDS = 120
_PATIENCE_MS = 60_000  # the first page of a code location that is still loading


class Ui:
    """The pages of one server, as a reader sees them."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address, self._bare = page, address, False

    def picture(self) -> bytes:
        """What is to be seen now, with nothing half faded in and nothing under the pointer."""
        self.page.mouse.move(0, 0)
        return self.page.screenshot(animations="disabled")

    def open(self, path: str, *shown: str) -> None:
        """Opens a page and waits until each of these texts is to be seen on it."""
        self.page.goto(self.address + path)
        if not self._bare:
            self.page.get_by_text("Hide navigation").click()
            self._bare = True  # the browser remembers it
        for text in shown:
            self.page.get_by_text(text, exact=True).first.wait_for()

    def asset(self, asset: str, round_: str, *shown: str) -> None:
        self.open(f"/assets/{asset}?view=partitions&partition={quote(round_, safe='')}", round_, *shown)

    def show_picture(self, key: str) -> Locator:
        """Opens the picture under this key of the metadata; the dialog that shows it."""
        row = self.page.get_by_role("row").filter(has=self.page.get_by_text(key, exact=True))
        row.get_by_text("[Show Markdown]").click()
        dialog = self.page.get_by_role("dialog")
        image = dialog.locator("img")
        image.wait_for()
        self.page.wait_for_function("one => one.complete && one.naturalWidth > 0", arg=image.element_handle())
        return dialog


def assets(ui: Ui) -> bytes:
    """The asset graph, all of it materialized."""
    ui.open("/asset-groups")
    for asset in ASSETS:
        ui.page.get_by_role("button", name=asset).get_by_role("img", name="run_success").wait_for()
    return ui.picture()


def ledger(ui: Ui) -> bytes:
    """The ledger with the tree of rounds opened."""
    ui.open("/assets/round_ledger", "reports", "round_tree")
    ui.show_picture("round_tree")
    return ui.picture()


def selection(ui: Ui) -> bytes:
    """Why rows were dropped."""
    ui.asset("selected_subset", "arithmetic/0000", "funnel", "dropped_because")
    ui.show_picture("funnel")
    return ui.picture()


def evaluation(ui: Ui) -> bytes:
    """A round's verdict with its links to the round before it."""
    ui.asset("eval_report", "arithmetic/0001", "verdict", "parent_round")
    return ui.picture()


def automation(ui: Ui) -> bytes:
    """The sensors and the schedule with their switches."""
    ui.open("/automation", *AUTOMATIONS, "Standard sensor", "Scheduled At 02:00 AM UTC")
    return ui.picture()


def report(ui: Ui) -> bytes:
    """The beginning of a campaign's report, which the ledger links."""
    ui.page.goto(ui.address + "/reports/arithmetic.html")
    ui.page.get_by_role("heading", name="In short").wait_for()
    return ui.picture()


PICTURES: dict[str, tuple[Callable[[Ui], bytes], int, int]] = {
    "assets": (assets, 1700, 480),
    "ledger": (ledger, 1280, 860),
    "selection": (selection, 1280, 860),
    "evaluation": (evaluation, 1560, 900),
    "automation": (automation, 1280, 420),
    "report": (report, 1100, 1000),
}
"""Each picture: who takes it, and the size of the window."""


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """`selfimp ui` on a free port of this machine, until it answers; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "selfimp_dagster.cli", "ui", "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "SELFIMP_HOME": str(home)})
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(address):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the UI of {home} did not start")
            time.sleep(0.5)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/server_info", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def small(png: bytes) -> bytes:
    """The picture in 256 colours, which a UI hardly needs more of.

    Raises:
        SystemExit: it is still larger than a page should have to load.
    """
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        file, "PNG", optimize=True
    )
    if file.tell() > MOST_BYTES:
        raise SystemExit(f"a picture has {file.tell():,} bytes; {MOST_BYTES:,} are allowed")
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=Path(".selfimp"), help="the installation")
    parser.add_argument("--out", type=Path, default=IMAGES, help="where the pictures go")
    parser.add_argument("names", nargs="*", choices=[[], *PICTURES], help="only these pictures")
    arguments = parser.parse_args()
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is on this machine")
    home = arguments.home.resolve()
    if not (home / "artifacts" / "arithmetic" / "0001" / "eval_report").is_dir():
        raise SystemExit(f"{home} has no second round of arithmetic; `make demo` makes it")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with serving(home) as address, sync_playwright() as playwright:
        # A sandbox cannot be had as root in a container; the pages are our own.
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name in arguments.names or PICTURES:
            take, width, height = PICTURES[name]
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
            page.set_default_timeout(_PATIENCE_MS)
            path = arguments.out / f"{name}.png"
            path.write_bytes(small(take(Ui(page, address))))
            page.close()
            print(f"{path}: {path.stat().st_size:,} bytes", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
