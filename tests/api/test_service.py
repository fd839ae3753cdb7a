"""Probes, lanes, suites, limits and the documentation."""

from __future__ import annotations

import re


def test_probes(service):
    assert service.http.get("/livez").json() == {"status": "alive"}
    assert service.http.get("/readyz").json() == {"status": "ready"}
    verbose = service.http.get("/readyz?verbose").json()
    assert verbose["checks"]["store"]["ok"] and verbose["checks"]["lanes"]["cpu"]["ok"]
    assert verbose["checks"]["delivery"] == {"ok": True, "refusing": [], "targets": {}, "waiting": 0}


def test_suites_and_limits_say_what_can_be_asked_for(service):
    (demo,) = [suite for suite in service.http.get("/suites").json()["suites"] if suite["name"] == "demo"]
    clips = {clip["name"]: clip for clip in demo["clips"]}
    assert (clips["bbb"]["width"], clips["bbb"]["height"], clips["bbb"]["frames"]) == (640, 360, 132)
    assert re.fullmatch("[0-9a-f]{64}", clips["bbb"]["sha256"])
    limits = service.http.get("/limits").json()["limits"]
    assert limits["wall_s"]["default"] == 120 and limits["job_s"]["default"] == 1800
    assert limits["memory_bytes"]["default"] == 4 * 1024**3
    assert all(limit["default"] <= limit["max"] for limit in limits.values())


def test_lanes(service):
    lanes = service.http.get("/lanes").json()["lanes"]
    assert [lane["name"] for lane in lanes] == ["cpu", "gpu"]
    assert all(lane["slots"] == 1 and lane["device"] == "cpu" for lane in lanes)


def test_the_documentation_needs_no_other_server(service):
    page = service.http.get("/docs").text
    assert "http://" not in page and "https://" not in page
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert service.http.get(asset).status_code == 200, asset
    assert service.http.get("/").headers["location"] == "/docs"


def test_openapi_has_examples(service):
    document = service.http.get("/openapi.json").json()
    assert document["components"]["schemas"]["JobSpecIn"]["examples"][0]["encoder"]
    for legacy in ("/experiment", "/experiment_result"):
        schema = document["paths"][legacy]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["examples"][0]["experiment_id"]
    assert {"/jobs", "/jobs/{job_id}", "/experiment", "/experiment_result", "/lanes"} <= set(document["paths"])


def test_the_example_of_the_documentation_runs(service):
    document = service.http.get("/openapi.json").json()
    example = document["components"]["schemas"]["JobSpecIn"]["examples"][0]
    job = service.http.post("/jobs", json=example).json()
    assert service.ended(job["id"])["state"] == "succeeded"


def test_openapi_names_every_answer_and_who_may_call(service):
    document = service.http.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key", "session"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            assert {"401", "403", "408", "413", "415", "421", "503"} <= set(answers), (method, path)
            assert {} in operation["security"], "this service asks for no key"
            for status, answer in answers.items():
                if status < "300":
                    assert answer["content"]["application/json"]["schema"], (method, path, status)
    limited = document["paths"]["/jobs"]["post"]["responses"]
    assert limited["429"]["headers"]["Retry-After"]["required"] and limited["202"]["headers"]["Location"]["required"]


def test_a_method_that_a_path_does_not_know_is_told_those_that_it_does(service):
    for path, methods in (("/jobs", "GET, POST"), ("/jobs/x", "GET, PUT"), ("/jobs/batch", "POST"), ("/livez", "GET")):
        answer = service.http.delete(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)
    assert service.http.get("/jobs/batch").status_code == service.http.put("/jobs/batch").status_code == 405
    assert service.http.get("/jobs/").status_code == 404
