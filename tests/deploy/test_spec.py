"""Documents for Google Cloud: the fields are those that it publishes, and what they start is a valid command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cnnlab.cli import main
from cnnlab.deploy.spec import MACHINES, cloud_run_service, vertex_job
from cnnlab.errors import ConfigError

if TYPE_CHECKING:
    from buckets import Bucket
    from conftest import CommandLine

IMAGE = "europe-west4-docker.pkg.dev/my-project/cnnlab/cnnlab:0.1"
RUN = ["data.limit=60", "trainer.epochs=1", "trainer.batch_size=20", "model.width=4", "trainer.precision=fp32"]
# Fields of CustomJobSpec (Vertex AI, REST v1) and of Service (Cloud Run Admin API v1), as far as they go here.
TEXT, NUMBER, TRUTH = str, int, bool
CUSTOM_JOB_SPEC = {
    "workerPoolSpecs": [
        {
            "machineSpec": {"machineType": TEXT, "acceleratorType": TEXT, "acceleratorCount": NUMBER},
            "replicaCount": NUMBER,
            "diskSpec": {"bootDiskType": TEXT, "bootDiskSizeGb": NUMBER},
            "containerSpec": {
                "imageUri": TEXT,
                "command": [TEXT],
                "args": [TEXT],
                "env": [{"name": TEXT, "value": TEXT}],
            },
        }
    ],
    "scheduling": {"timeout": TEXT, "restartJobOnWorkerRestart": TRUTH, "strategy": TEXT},
    "serviceAccount": TEXT,
}
PROBE = {
    "httpGet": {"path": TEXT, "port": NUMBER},
    "periodSeconds": NUMBER,
    "timeoutSeconds": NUMBER,
    "failureThreshold": NUMBER,
}
SERVICE = {
    "apiVersion": TEXT,
    "kind": TEXT,
    "metadata": {"name": TEXT},
    "spec": {
        "template": {
            "metadata": {
                "annotations": {"autoscaling.knative.dev/maxScale": TEXT, "run.googleapis.com/startup-cpu-boost": TEXT}
            },
            "spec": {
                "containerConcurrency": NUMBER,
                "timeoutSeconds": NUMBER,
                "serviceAccountName": TEXT,
                "containers": [
                    {
                        "image": TEXT,
                        "command": [TEXT],
                        "args": [TEXT],
                        "ports": [{"containerPort": NUMBER}],
                        "env": [{"name": TEXT, "valueFrom": {"secretKeyRef": {"name": TEXT, "key": TEXT}}}],
                        "resources": {"limits": {"cpu": TEXT, "memory": TEXT}},
                        "startupProbe": PROBE,
                        "livenessProbe": PROBE,
                    }
                ],
            },
        }
    },
}


def assert_fits(value: Any, schema: Any, where: str = "") -> None:
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        for key, inner in value.items():
            assert key in schema, f"{where}.{key}"
            assert_fits(inner, schema[key], f"{where}.{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for inner in value:
            assert_fits(inner, schema[0], where)
    else:
        assert type(value) is schema, where


def rendered(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("# gcloud ")
    return yaml.safe_load(out)


def test_a_schema_that_is_not_met_is_seen() -> None:
    for wrong in ({"worker_pool_specs": []}, {"workerPoolSpecs": [{"replicaCount": "1"}]}, {"scheduling": []}):
        with pytest.raises(AssertionError):
            assert_fits(wrong, CUSTOM_JOB_SPEC)


@pytest.mark.parametrize("more", [[], ["--accelerator", "NVIDIA_L4"], ["--spot", "--service-account", "me@p.iam"]])
def test_a_training_becomes_a_custom_job(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", *RUN, "run.dir=gs://bucket/runs/mine", "--spec", "vertex", "--image", IMAGE, *more]
    job = rendered(words, capsys)
    assert_fits(job, CUSTOM_JOB_SPEC)
    (pool,) = job["workerPoolSpecs"]
    assert pool["machineSpec"]["machineType"] and pool["replicaCount"] == 1
    assert pool["machineSpec"].get("acceleratorCount") == (1 if "--accelerator" in more else None)
    assert pool["containerSpec"]["imageUri"] == IMAGE
    assert (job["scheduling"].get("strategy") == "SPOT") == ("--spot" in more)
    assert job.get("serviceAccount") == ("me@p.iam" if more and more[0] == "--spot" else None)


def test_what_a_job_starts_is_what_was_asked_for_and_goes_on_when_it_is_started_anew(
    command: CommandLine, bucket: Bucket, tmp_path: Path
) -> None:
    address = f"{bucket.address}/runs/job"
    # Text that YAML and shells would read otherwise.
    odd = ['run.name=it\'s: "odd" #1 \\ {x} $HOME %s é\n- two', "trainer.class_weights=balanced"]
    words = ["train", *RUN, *odd, f"run.dir={address}"]
    answer = command(*words, "--spec", "vertex", "--image", IMAGE)
    assert answer.code == 0, answer.err
    container = yaml.safe_load(answer.out)["workerPoolSpecs"][0]["containerSpec"]
    assert container["command"] == ["cnnlab"]
    assert container["args"] == [*words, "--resume"]
    for machine, epochs in (("one", 1), ("two", 0)):
        place = {**bucket.environment, "CNNLAB_CACHE": str(tmp_path / machine)}
        result = command(*container["args"], environment=place)
        assert result.code == 0, result.err
        assert result.out.count("1/1") == epochs  # the second time nothing is left to do
    assert "runs/job/report.html" in bucket.names("runs/job/")


def test_a_run_that_was_begun_becomes_a_job_that_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    job = rendered(["resume", "gs://bucket/runs/mine", "--spec", "vertex", "--image", IMAGE], capsys)
    assert_fits(job, CUSTOM_JOB_SPEC)
    assert job["workerPoolSpecs"][0]["containerSpec"]["args"] == ["resume", "gs://bucket/runs/mine"]


def test_a_demo_becomes_a_service_without_a_secret_in_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNLAB_TOKEN", "very-secret")
    words = ["demo", "gs://bucket/runs/My Run!", "--spec", "cloudrun", "--image", IMAGE, "--secret", "demo-token"]
    service = rendered([*words, "--token", "very-secret"], capsys)
    assert_fits(service, SERVICE)
    assert "very-secret" not in str(service)
    assert service["metadata"]["name"] == "cnnlab-my-run"
    (container,) = service["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [
        {"name": "CNNLAB_TOKEN", "valueFrom": {"secretKeyRef": {"name": "demo-token", "key": "latest"}}}
    ]
    port = str(container["ports"][0]["containerPort"])
    assert container["args"] == ["demo", "gs://bucket/runs/My Run!", "--host", "0.0.0.0", "--port", port]
    assert container["startupProbe"]["httpGet"] == {"path": "/health", "port": int(port)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "run.dir=runs/mine"], "run.dir"),
        (["train"], "run.dir"),
        (["train", "run.dir=gs://b/r", "data=folder", "data.root=photos"], "cannot read data.root='photos'"),
        (["train", "run.dir=gs://b/r", "init.from=runs/other"], "cannot read init.from"),
        (["train", "run.dir=gs://b/r", "logger=wandb"], "must not stand in"),
        (["train", "run.dir=gs://b/r", "trainer.epochs=none"], "trainer.epochs"),
        (["train", "run.dir=gs://b/r", "--accelerator", "NVIDIA_B200"], "--machine"),
        (["resume", "runs/mine"], "cannot read runs/mine"),
    ],
)
def test_a_job_that_could_not_work_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--spec", "vertex", "--image", IMAGE]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert message in err


@pytest.mark.parametrize("image", [None, "", "cnn lab", "cnnlab; rm", "a/b:c d", "https://a/b"])
def test_an_image_is_an_address(image: str | None) -> None:
    for render in (lambda: vertex_job(["cnnlab", "train"], image), lambda: cloud_run_service("gs://b/r", image)):
        with pytest.raises(ConfigError, match="--image"):
            render()


def test_each_accelerator_has_a_machine() -> None:
    for accelerator, machine in MACHINES.items():
        spec = vertex_job(["cnnlab", "train"], IMAGE, accelerator=accelerator)["workerPoolSpecs"][0]["machineSpec"]
        assert spec == {"machineType": machine, "acceleratorType": accelerator, "acceleratorCount": 1}
    assert vertex_job(["cnnlab", "train"], IMAGE, "n2-highmem-4")["workerPoolSpecs"][0]["machineSpec"] == {
        "machineType": "n2-highmem-4"
    }


GCLOUD = shutil.which("gcloud")
READ = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/third_party"]
from googlecloudsdk.api_lib.util import apis, messages
for api, name, document in json.load(sys.stdin):
    messages.DictToMessageWithErrorCheck(document, getattr(apis.GetMessagesModule(api, "v1"), name))
print("read")
"""


@pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed")
def test_gcloud_itself_reads_the_documents(tmp_path: Path) -> None:
    import json

    library = Path(os.path.realpath(str(GCLOUD))).parents[1] / "lib"
    if not (library / "googlecloudsdk").is_dir():
        pytest.skip("gcloud's library is not beside it")
    command = ["cnnlab", "train", "--resume"]
    documents = [
        ("aiplatform", "GoogleCloudAiplatformV1CustomJobSpec", vertex_job(command, IMAGE, None, kind, True, "a@b"))
        for kind in (None, *MACHINES)
    ]
    documents.append(("run", "Service", cloud_run_service("gs://b/r", IMAGE, service_account="a@b")))
    bundled = library.parent / "platform" / "bundledpythonunix" / "bin" / "python3"
    python = str(bundled) if bundled.exists() else sys.executable

    def read(documents: list[Any]) -> subprocess.CompletedProcess[str]:
        environment = {"CLOUDSDK_CONFIG": str(tmp_path), "PATH": os.environ["PATH"]}
        words = [python, "-c", READ, str(library)]
        return subprocess.run(words, input=json.dumps(documents), capture_output=True, text=True, env=environment)

    answer = read(documents)
    assert answer.stdout == "read\n", answer.stderr
    assert read([("run", "Service", {"spec": {"templates": {}}})]).returncode != 0
