"""`cnnlab demo`: a run as a web page and a JSON interface."""

from __future__ import annotations

import argparse
import os

from cnnlab.cli.arguments import RUN, add_trust_code, refuse_ignored
from cnnlab.cli.cloud import add_spec, refuse_without_spec

SUMMARY = "serve a run: a web page and a JSON API"
EXAMPLES = """\
examples:
  cnnlab demo runs/mine                                     http://127.0.0.1:8000
  cnnlab demo runs/mine --port 9000
  cnnlab demo runs/mine --host 0.0.0.0 --token secret       for others, who need the token
  curl -F picture=@cat.jpg http://127.0.0.1:8000/predict
  cnnlab demo gs://bucket/runs/mine --spec cloudrun --image IMAGE > service.yaml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--host", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, help="default: the environment variable PORT, or 8000; 0 picks a free port")
    parser.add_argument(
        "--token", metavar="T", help="bearer token that every request must carry (default: CNNLAB_TOKEN)"
    )
    add_trust_code(parser)
    add_spec(parser, "cloudrun", "a Cloud Run service")
    parser.add_argument(
        "--secret",
        metavar="NAME",
        help="of the token in Secret Manager (default: cnnlab-token)",
    )


def run(options: argparse.Namespace) -> None:
    if options.spec:
        _print_spec(options)
        return
    refuse_without_spec(options, "cloudrun")
    from cnnlab.deploy.demo import port_of, serve
    from cnnlab.runs.opened import opened_run

    port = port_of(os.environ) if options.port is None else options.port
    token = os.environ.get("CNNLAB_TOKEN") if options.token is None else options.token
    with opened_run(options.run) as folder:
        serve(folder, options.host or "127.0.0.1", port, token, options.trust_code)


def _print_spec(options: argparse.Namespace) -> None:
    """The service of Cloud Run that shows there what these words would show here."""
    from cnnlab.deploy.spec import as_yaml, cloud_run_service

    refuse_ignored(options, ("host", "port"), "is set by --spec cloudrun")
    secret = options.secret or "cnnlab-token"
    service = cloud_run_service(
        options.run, options.image, secret, options.service_account, trust_code=options.trust_code
    )
    use = "gcloud run services replace THIS_FILE --region REGION"
    use += "" if options.token is None else f"\n# --token is not included: store it in the secret {secret}"
    print(as_yaml(service, use), end="")
