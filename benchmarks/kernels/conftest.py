"""What pytest-benchmark writes beside the kernels' figures."""

from __future__ import annotations

from typing import Any

from gsr_engine.environment import describe_machine


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """GPU, driver and versions."""
    machine_info |= describe_machine()
