"""The Dagster UI with the reports of campaigns beside it: `python -m selfimp_dagster.webserver`, options as
those of `dagster-webserver`."""

import re
from typing import Any

import dagster_webserver.app
from dagster_webserver.cli import main
from dagster_webserver.webserver import DagsterWebserver
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from selfimp_dagster.report import FOLDER, SUFFIX
from selfimp_dagster.round_key import CAMPAIGN_PATTERN
from selfimp_dagster.settings import settings

_PAGE = re.compile(rf"{CAMPAIGN_PATTERN}{re.escape(SUFFIX)}")


class WebserverWithReports(DagsterWebserver):
    """Serves `/reports/<campaign>.html` from the store: these pages, and nothing else that is there."""

    def build_routes(self) -> list[Any]:
        return [Route(f"/{FOLDER}/{{page}}", self.report), *super().build_routes()]

    async def report(self, request: Request) -> FileResponse:
        page = request.path_params["page"]
        path = settings().store / FOLDER / page
        if not _PAGE.fullmatch(page) or not path.is_file():
            raise HTTPException(404, "There is no such report. `selfimp report CAMPAIGN` writes one.")
        return FileResponse(path, media_type="text/html", headers=self.make_security_headers())


if __name__ == "__main__":
    dagster_webserver.app.DagsterWebserver = WebserverWithReports  # type: ignore[attr-defined]
    main()
