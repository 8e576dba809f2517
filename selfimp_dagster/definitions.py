"""The one Definitions object. Importing it costs no torch."""

import warnings

import dagster as dg

# Partitioned asset checks are a preview in Dagster 1.13, to which the project is held.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from selfimp_dagster import assets, checks  # noqa: E402
from selfimp_dagster.automation.next_round_sensor import next_round_sensor  # noqa: E402
from selfimp_dagster.automation.nightly_round import nightly_round  # noqa: E402
from selfimp_dagster.automation.oversight_job import oversight_job  # noqa: E402
from selfimp_dagster.automation.oversight_sensor import oversight_sensor  # noqa: E402
from selfimp_dagster.automation.round_job import round_job  # noqa: E402
from selfimp_dagster.automation.webhook_sensor import webhook_sensor  # noqa: E402
from selfimp_dagster.resources.workbench import WorkbenchResource  # noqa: E402
from selfimp_dagster.settings import settings  # noqa: E402


def build_definitions(workbench: WorkbenchResource) -> dg.Definitions:
    """All definitions, at work in the folders of this workbench."""
    return dg.Definitions(
        assets=dg.load_assets_from_package_module(assets),
        asset_checks=dg.load_asset_checks_from_package_module(checks),
        jobs=[round_job, oversight_job],
        sensors=[next_round_sensor, oversight_sensor, webhook_sensor],
        schedules=[nightly_round],
        executor=dg.in_process_executor,
        resources={"workbench": workbench},
    )


defs = build_definitions(WorkbenchResource.at(settings()))
