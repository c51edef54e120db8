"""What runs a cnnlab command on Google Cloud: documents for gcloud, which hold no secret.

Field names after the references of Vertex AI (REST v1, CustomJobSpec) and of Cloud Run (Admin API v1, Service).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cnnlab.config import Config
from cnnlab.data.catalog import CATALOG
from cnnlab.errors import ConfigError, nearest
from cnnlab.files import is_remote

CPU_MACHINE = "e2-standard-8"
MACHINES = {  # the smallest common machine for one accelerator
    "NVIDIA_TESLA_T4": "n1-standard-8",
    "NVIDIA_TESLA_P100": "n1-standard-8",
    "NVIDIA_TESLA_V100": "n1-standard-8",
    "NVIDIA_L4": "g2-standard-8",
    "NVIDIA_TESLA_A100": "a2-highgpu-1g",
    "NVIDIA_A100_80GB": "a2-ultragpu-1g",
    "NVIDIA_H100_80GB": "a3-highgpu-1g",
}
PORT = 8080
AT_ONCE = 64  # requests; the demo's own limit
STARTS = 24  # times 10 seconds for the first answer, the most that Cloud Run waits
TOKEN = "CNNLAB_TOKEN"


def check_train(config: Config) -> None:
    """Raise ConfigError for a training that a machine of its own could not do or would lose."""
    if not config.run.dir or not is_remote(config.run.dir):
        raise ConfigError(
            "a job's disk goes with it: set run.dir to an address in a bucket, such as gs://BUCKET/runs/mine, got"
            f" {config.run.dir!r}."
        )
    if config.data.name not in CATALOG:
        raise ConfigError(f"unknown data {config.data.name!r}.{nearest(config.data.name, CATALOG)}")
    if config.data.name == "folder" and not is_remote(config.data.root):
        raise ConfigError(
            f"the job cannot read data.root={config.data.root!r}: copy the images to a bucket and give its address."
        )
    source = config.init.source
    if source is not None and not is_remote(source) and not source.startswith(("torchvision:", "wandb:")):
        raise ConfigError(f"the job cannot read init.from={source!r}: copy that run to a bucket and give its address.")
    if config.logger.wandb and config.logger.wandb_mode == "online":
        raise ConfigError(
            "logger.wandb needs a key, which must not stand in a job's specification; set logger.wandb_mode=offline."
        )


def vertex_job(
    command: Sequence[str],
    image: str | None,
    machine: str | None = None,
    accelerator: str | None = None,
    spot: bool = False,
    service_account: str | None = None,
    disk: int = 100,
) -> dict[str, Any]:
    """A CustomJobSpec of Vertex AI, for `gcloud ai custom-jobs create --config`.

    Args:
        command: what the container runs, such as ["cnnlab", "train", "run.dir=gs://bucket/runs/mine", "--resume"].
        image: address of the container image.
        machine: type of machine; None takes one that fits the accelerator.
        accelerator: one of it, such as NVIDIA_L4; None trains on the processor.
        spot: take a cheaper machine that can be preempted.
        service_account: email of the account that the job acts as; None leaves that to Vertex AI.
        disk: GB for the copy of the data, decoded images and the run.

    Raises:
        ConfigError: no image, or no machine known for the accelerator.
    """
    if accelerator is not None and machine is None and accelerator not in MACHINES:
        raise ConfigError(f"no machine is known for {accelerator}; give one with --machine.")
    spec: dict[str, Any] = {"machineType": machine or MACHINES.get(accelerator or "", CPU_MACHINE)}
    if accelerator is not None:
        spec |= {"acceleratorType": accelerator, "acceleratorCount": 1}
    pool = {
        "machineSpec": spec,
        "replicaCount": 1,
        "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": disk},
        "containerSpec": {"imageUri": check_image(image), "command": [command[0]], "args": list(command[1:])},
    }
    scheduling: dict[str, Any] = {"restartJobOnWorkerRestart": True}
    if spot:
        scheduling["strategy"] = "SPOT"
    job: dict[str, Any] = {"workerPoolSpecs": [pool], "scheduling": scheduling}
    return job | ({"serviceAccount": service_account} if service_account else {})


def cloud_run_service(
    run: str,
    image: str | None,
    secret: str = "cnnlab-token",
    service_account: str | None = None,
    name: str | None = None,
    trust_code: bool = False,
) -> dict[str, Any]:
    """A Service of Cloud Run that shows a run to others, for `gcloud run services replace`.

    Args:
        run: address of the run in a bucket, or its path inside the image.
        secret: name in Secret Manager of the token that every question must bring.
        name: of the service; None makes one of the run's.
        trust_code: see `load_run`; the module must lie in the image.

    Raises:
        ConfigError: no image.
    """
    name = name or "cnnlab-" + re.sub(r"[^a-z0-9]+", "-", run.rstrip("/").rpartition("/")[2].lower()).strip("-")
    container = {
        "image": check_image(image),
        "command": ["cnnlab"],
        "args": ["demo", run, "--host", "0.0.0.0", "--port", str(PORT), *(["--trust-code"] if trust_code else [])],
        "ports": [{"containerPort": PORT}],
        "env": [{"name": TOKEN, "valueFrom": {"secretKeyRef": {"name": secret, "key": "latest"}}}],
        "resources": {"limits": {"cpu": "2", "memory": "2Gi"}},
        "startupProbe": _health(period=10, failures=STARTS),
        "livenessProbe": _health(period=30, failures=3),
    }
    revision: dict[str, Any] = {"containerConcurrency": AT_ONCE, "timeoutSeconds": 60, "containers": [container]}
    if service_account:
        revision["serviceAccountName"] = service_account
    annotations = {"autoscaling.knative.dev/maxScale": "2", "run.googleapis.com/startup-cpu-boost": "true"}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name[:49].rstrip("-")},
        "spec": {"template": {"metadata": {"annotations": annotations}, "spec": revision}},
    }


def _health(period: int, failures: int) -> dict[str, Any]:
    get = {"path": "/health", "port": PORT}
    return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}


def check_image(image: str | None) -> str:
    """Raises ConfigError."""
    if not image or not re.fullmatch(r"[\w.-]+(:\d+)?(/[\w.-]+)+(:[\w.-]+)?(@sha256:[0-9a-f]{64})?", image):
        raise ConfigError(
            f"--spec needs --image, the address of a container image such as"
            f" REGION-docker.pkg.dev/PROJECT/REPOSITORY/cnnlab:0.1, got {image!r}."
        )
    return image


def as_yaml(document: dict[str, Any], use: str) -> str:
    """The document, under a comment that says how it is used."""
    import yaml

    return f"# {use}\n" + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)
