"""Serves the page at `/`: one document that holds its style and scripts.

One document has no second path to guard. Where keys are set and none is sent, its status is 401 as
for every guarded route. A browser shows it all the same, and the page asks for the key.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from gsr_engine.serving.http.errors import Problem
from gsr_engine.serving.http.guard import check_key, open_router
from gsr_engine.serving.http.state import Server

_FOLDER = Path(__file__).parent
_STYLE = re.compile(r'<link rel="stylesheet" href="([\w.]+)">')
_SCRIPT = re.compile(r'<script src="([\w.]+)"></script>')


def page_routes(server: Server) -> APIRouter:
    """`/`; the page's requests are relative to it, so it works wherever it is mounted."""
    router = open_router(server)
    document, policy = _document()
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",  # an upgraded server's page is never an old one
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }

    @router.get("/", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        """The page, also for a browser without a key."""
        try:
            check_key(server, request)
        except Problem as problem:
            return HTMLResponse(document, problem.status, headers | {"WWW-Authenticate": "Bearer"})
        return HTMLResponse(document, headers=headers)

    return router


def _document() -> tuple[str, str]:
    """The page with its files in place of the links to them, and the policy that allows only these.

    The policy also allows requests to the page's own server, and refuses text that becomes markup.
    """
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def put_in(tag: str, name: str) -> str:
        text = (_FOLDER / name).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[tag].append(f"'sha256-{digest}'")
        return f"<{tag}>{text}</{tag}>"

    html = (_FOLDER / "index.html").read_text(encoding="utf-8")
    html = _STYLE.sub(lambda link: put_in("style", link[1]), html)
    html = _SCRIPT.sub(lambda link: put_in("script", link[1]), html)
    policy = (
        "default-src 'none'",
        f"style-src {' '.join(hashes['style'])}",
        f"script-src {' '.join(hashes['script'])}",
        "connect-src 'self'",
        "img-src data:",  # the icon
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
    return html, "; ".join(policy)
