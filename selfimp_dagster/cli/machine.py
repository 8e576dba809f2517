"""This machine: what works on it, and the UI on it."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Annotated

import typer

from selfimp_dagster.cli.app import app
from selfimp_dagster.console import console, print_rows
from selfimp_dagster.settings import settings

CODE_LOCATION = {"module_name": "selfimp_dagster.definitions", "location_name": "selfimp_dagster"}

_PANEL = "This machine"


@app.command(rich_help_panel=_PANEL)
def doctor() -> None:
    """Say what works on this machine: cores, GPU, engines, model, disk, versions."""
    from selfimp_dagster.doctor import examine

    findings = list(examine(settings()))
    print_rows(
        ("", "subject", "finding"),
        (("[green]ok" if f.works else "[red]no", f.subject, f.detail) for f in findings),
    )
    if not all(finding.works for finding in findings):
        raise typer.Exit(1)


@app.command(rich_help_panel=_PANEL)
def instance(
    postgres: Annotated[
        bool,
        typer.Option(
            "--postgres",
            help="Keep the history in the PostgreSQL database whose URL is in SELFIMP_POSTGRES_URL.",
        ),
    ] = False,
) -> None:
    """Make the Dagster instance unless it is there, and say where it keeps the history of the runs."""
    from selfimp_dagster.rounds_in_process import open_instance, prepare_home
    from selfimp_dagster.run_history import history_of, keep_in_postgres

    home = settings().home
    prepare_home(home)
    if postgres:
        keep_in_postgres(home)
    with open_instance(home) as opened:
        runs = opened.get_runs_count()
    console.print(f"{home}: {runs} runs in {history_of(home)}", highlight=False, soft_wrap=True)


@app.command(rich_help_panel=_PANEL)
def ui(port: Annotated[int, typer.Option(help="Port on the loopback interface.")] = 3000) -> None:
    """Start the Dagster UI and its daemon on this machine's loopback interface, on the same instance."""
    from selfimp_dagster.rounds_in_process import open_instance

    where = settings()
    with open_instance(where.home):
        pass  # a history that cannot be reached is said here, not by two processes that end
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(where.home),
        "SELFIMP_HOME": str(where.home),
        "SELFIMP_CAMPAIGNS": str(where.campaigns),
    }
    workspace = where.home / "workspace.yaml"
    workspace.write_text(json.dumps({"load_from": [{"python_module": CODE_LOCATION}]}))  # JSON is YAML
    location = ["-w", str(workspace)]
    commands = [
        # A connection to PostgreSQL is used once: one kept over its restart answers a click with an error.
        [
            *(sys.executable, "-m", "selfimp_dagster.webserver", "-h", "127.0.0.1", "-p", str(port)),
            *("--db-pool-recycle", "0", *location),
        ],
        [sys.executable, "-m", "dagster._daemon", "run", *location],
    ]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    console.print(f"Dagster UI: http://127.0.0.1:{port}  (Ctrl-C stops it)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
