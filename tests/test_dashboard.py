"""The example dashboard asks only for metrics that the server has."""

import json
import re

from support import ROOT

DASHBOARD = ROOT / "docs" / "grafana-dashboard.json"


def expressions(panels):
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", []))
        yield from expressions(panel.get("panels", []))


def test_every_metric_of_the_dashboard_exists(server):
    body = {"model": "demo", "prompt": "The capital of France is", "max_tokens": 4}
    assert server.send("POST", "/v1/completions", body).status == 200
    page = server.send("GET", "/metrics").body.decode("utf-8")
    served = set(re.findall(r"^([a-z0-9_:]+)[ {]", page, re.MULTILINE))
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    used = set()
    for expression in expressions(dashboard["panels"]):
        used |= set(re.findall(r"(?:vllm:|http_|process_)[a-z0-9_]+", expression))
    assert len(used) > 10
    assert used <= served, used - served
