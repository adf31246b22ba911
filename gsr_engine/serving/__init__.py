"""The engine behind asyncio: it runs in a separate thread and reports streams of events.

`create_app` and `create_router` put OpenAI's API in front of it. They are resolved on first use
(PEP 562), because only they need the extra `serve`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gsr_engine.serving.http.app import create_app, create_router
    from gsr_engine.serving.http.auth import Keys
    from gsr_engine.serving.http.settings import Settings

__all__ = ["Keys", "Settings", "create_app", "create_router"]

_MODULES = {"create_app": "app", "create_router": "app", "Keys": "auth", "Settings": "settings"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.http.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
