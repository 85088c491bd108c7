"""`/openapi.json`: the endpoint table as OpenAPI 3.1. Pure."""

from importlib.metadata import version
from typing import Any

from broker.errors import Code
from broker.web.endpoints import ENDPOINTS, SCHEMAS, Endpoint, Field

_ALWAYS = (Code.REQUEST_INVALID, Code.PATH_INVALID, Code.RATE_LIMITED, Code.INTERNAL)


def document(public_url: str) -> dict[str, Any]:
    """The whole description. Two endpoints with one path are two methods of it."""
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "credbroker",
            "version": version("credbroker"),
            "description": "Short-lived credentials for CI jobs: proven, rotated, revoked, logged.",
        },
        "servers": [{"url": public_url}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"handle": {"type": "http", "scheme": "bearer", "description": "A session's handle, cbs_…"}},
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.operation,
        "summary": endpoint.words,
        "description": f"Served on: {', '.join(sorted(endpoint.served_on))}.",
        "responses": _responses(endpoint),
    }
    if endpoint.holder:
        operation["security"] = [{"handle": []}]
    parameters = [_parameter(field) for field in endpoint.fields if field.place != "form"]
    if parameters:
        operation["parameters"] = parameters
    fields = [field for field in endpoint.fields if field.place == "form"]
    if fields:
        schema = {
            "type": "object",
            "required": [field.name for field in fields if field.required],
            "properties": {field.name: field.schema | {"description": field.words} for field in fields},
            "additionalProperties": False,
        }
        operation["requestBody"] = {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}
    return operation


def _parameter(field: Field) -> dict[str, Any]:
    return {
        "name": field.name,
        "in": field.place,
        "required": field.required,
        "description": field.words,
        "schema": field.schema,
    }


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    answer = {"schema": {"$ref": f"#/components/schemas/{endpoint.answer}"}}
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": {endpoint.media_type: answer}}}
    by_status: dict[str, list[str]] = {}
    for code in (*endpoint.codes, *_ALWAYS):
        status = 400 if code is Code.GRANT_UNKNOWN and endpoint.operation == "exchangeToken" else code.http_status
        by_status.setdefault(str(status), []).append(code.word)
    for answered, words in sorted(by_status.items()):
        responses[answered] = {
            "description": ", ".join(dict.fromkeys(words)),
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    if endpoint.operation == "readiness":
        responses["503"] = {"description": "Not ready.", "content": {endpoint.media_type: answer}}
    return responses
