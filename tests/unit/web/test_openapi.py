"""`/openapi.json` is a valid document and tells no other story than the routes."""

import json
import re
from typing import Any

import pytest
from openapi_spec_validator import validate

from broker.errors import Code
from broker.web import routes
from broker.web.desk import Publication
from broker.web.endpoints import ADMIN, ENDPOINTS, SCHEMAS
from broker.web.openapi import document
from broker.web.reading import EXCHANGE_FIELDS
from broker.web.routes import HOT
from broker.web.sockets import LoopbackAt
from tests.fakes import running_broker
from tests.fakes.running_broker import RunningBroker, Wire


def test_the_document_is_valid_openapi() -> None:
    """By the specification's own validator."""
    validate(document("https://broker.example.com"))


def test_every_endpoint_is_there_once() -> None:
    """Operation, method and path are unique; every schema that is named exists, and none is left over."""
    found = document("https://broker.example.com")
    operations = [op["operationId"] for path in found["paths"].values() for op in path.values()]
    assert sorted(operations) == sorted(endpoint.operation for endpoint in ENDPOINTS)
    assert len(set(operations)) == len(operations)
    assert {endpoint.answer for endpoint in ENDPOINTS} | {"Error"} == set(SCHEMAS)
    assert {endpoint.operation for endpoint in ENDPOINTS} >= HOT


def test_path_parameters_are_those_of_the_path() -> None:
    """OpenAPI has them twice."""
    for endpoint in ENDPOINTS:
        named = {field.name for field in endpoint.fields if field.place == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", endpoint.path))


def test_the_token_form_is_the_one_that_is_read() -> None:
    """A field that is documented and refused, or the reverse, would be a trap."""
    exchange = next(endpoint for endpoint in ENDPOINTS if endpoint.operation == "exchangeToken")
    assert {field.name for field in exchange.fields} == EXCHANGE_FIELDS


def test_every_code_that_travels_is_documented_somewhere() -> None:
    """Except `blocked`, which nothing sets yet."""
    text = str(document("https://broker.example.com")["paths"])
    silent = {code.word for code in Code if code.http_status and not re.search(rf"\b{code.word}\b", text)}
    assert silent == {"blocked"}


def test_metrics_are_for_the_admin_socket_alone() -> None:
    """Whoever may read them sees which projects exist."""
    assert [endpoint.operation for endpoint in ENDPOINTS if endpoint.served_on == ADMIN] == ["metrics"]


def test_the_document_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the package's metadata from the disk, and anybody may ask for it as often as they like."""
    made: list[str] = []

    def counted(public_url: str) -> dict[str, Any]:
        made.append(public_url)
        return document(public_url)

    monkeypatch.setattr(routes, "document", counted)
    with RunningBroker([LoopbackAt(host="127.0.0.1", port=0)]) as broker, Wire(broker.urls[0]) as wire:
        for _ in range(3):
            found = json.loads(wire.request("GET", "/openapi.json").body)
            assert found == json.loads(json.dumps(document("https://broker.example.com")))
    assert made == ["https://broker.example.com"]


@pytest.mark.parametrize("path", ["/jwks", "/.well-known/openid-configuration"])
def test_what_changes_with_the_keys_is_made_for_each_request(path: str) -> None:
    """Kept from the start, it would be wrong after the first rotation."""
    kept: dict[str, Any] = {"rotation": 0}
    publication = Publication(discovery=lambda: dict(kept), jwks=lambda: dict(kept))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running_broker, "Publication", lambda **_: publication)
        with RunningBroker([LoopbackAt(host="127.0.0.1", port=0)]) as broker, Wire(broker.urls[0]) as wire:
            for rotation in range(3):
                kept["rotation"] = rotation
                assert json.loads(wire.request("GET", path).body) == {"rotation": rotation}
