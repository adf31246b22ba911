"""The Kubernetes manifest is valid, and its times and flags are those of the server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

import gsr_engine
from gsr_engine.cli.commands import app
from gsr_engine.serving.http.service import FLUSH_SECONDS

ROOT = Path(__file__).parents[2]
MANIFEST = Path(gsr_engine.__file__).parent / "serving" / "kubernetes.yaml"
RESOURCES: dict[str, dict[str, Any]] = {
    one["kind"]: one for one in yaml.safe_load_all(MANIFEST.read_text())
}
POD = RESOURCES["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
FLAGS = dict(part.removeprefix("--").split("=") for part in CONTAINER["args"] if "=" in part)


@pytest.mark.parametrize("kind", RESOURCES)
@pytest.mark.parametrize("version", ["1.32", kubernetes_validate.latest_version()])
def test_each_resource_is_valid(kind: str, version: str) -> None:
    kubernetes_validate.validate(RESOURCES[kind], version, strict=True)


def test_a_field_that_does_not_exist_is_found() -> None:
    broken = {**RESOURCES["Service"], "spec": {**RESOURCES["Service"]["spec"], "prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_the_grace_period_is_above_all_that_happens_in_it() -> None:
    before = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    stages = float(FLAGS["shutdown-delay"]) + float(FLAGS["shutdown-timeout"])
    assert POD["terminationGracePeriodSeconds"] > before + stages + 2 * FLUSH_SECONDS


def test_a_model_may_take_minutes_to_load() -> None:
    probe = CONTAINER["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 600


def test_probes_ask_what_the_server_answers_without_a_key() -> None:
    paths = {
        name: CONTAINER[f"{name}Probe"]["httpGet"]["path"]
        for name in ("startup", "readiness", "liveness")
    }
    assert paths == {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}
    named = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert named == {"http": int(FLAGS["port"])}
    (port,) = RESOURCES["Service"]["spec"]["ports"]
    assert port["targetPort"] in named


def test_the_labels_meet() -> None:
    labels = RESOURCES["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    for kind, where in (("Service", ()), ("Deployment", ("matchLabels",))):
        chosen = RESOURCES[kind]["spec"]["selector"]
        for key in where:
            chosen = chosen[key]
        assert chosen.items() <= labels


def test_every_flag_of_manifest_image_and_page_exists() -> None:
    known = set(re.findall(r"--[a-z-]+", CliRunner().invoke(app, ["serve", "--help"]).output))
    image = (ROOT / "Dockerfile").read_text()
    operating = MANIFEST.with_name("OPERATING.md").read_text()
    asked = {part.split("=")[0] for part in CONTAINER["args"] if part.startswith("--")}
    asked |= set(re.findall(r"serve.*?(--host)", image))
    asked |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", operating))
    assert len(asked) > 15
    assert asked <= known


def test_manifest_and_page_name_the_image_of_this_version() -> None:
    image = f"gsr-engine:{gsr_engine.__version__}"
    assert CONTAINER["image"] == image
    assert f"docker build -t {image} ." in MANIFEST.with_name("README.md").read_text()


def test_the_image_has_what_it_copies_and_nothing_of_the_checkout_besides() -> None:
    image = (ROOT / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.+)", image, re.M) for name in line.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
    torch = re.findall(r"^ARG TORCH=(\S+)", image, re.M)
    assert torch == re.findall(r"^TORCH \?= (\S+)", (ROOT / "Makefile").read_text(), re.M)
