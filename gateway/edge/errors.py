"""What Envoy answers by itself: google.rpc.Status on the API, OpenAI's error object on model routes, text to gRPC."""

from gateway.edge.messages import typed

CONTENT_TYPE = "%REQ(content-type)%"

# HTTP status of the local answer: google.rpc.Code, reason in aiops.errors.v1.Reason, OpenAI's error type.
STATUSES = {
    400: (3, "INVALID_REQUEST", "invalid_request_error"),
    401: (16, "UNAUTHENTICATED", "authentication_error"),
    403: (7, "PERMISSION_DENIED", "permission_error"),
    404: (5, "NOT_FOUND", "invalid_request_error"),
    405: (12, "UNIMPLEMENTED", "invalid_request_error"),
    408: (4, "DEADLINE_EXCEEDED", "timeout_error"),
    413: (8, "RESOURCE_EXHAUSTED", "invalid_request_error"),
    415: (3, "INVALID_REQUEST", "invalid_request_error"),
    429: (8, "RESOURCE_EXHAUSTED", "rate_limit_error"),
    431: (8, "RESOURCE_EXHAUSTED", "invalid_request_error"),
    500: (13, "INTERNAL", "server_error"),
    502: (14, "UNAVAILABLE", "server_error"),
    503: (14, "UNAVAILABLE", "server_error"),
    504: (4, "DEADLINE_EXCEEDED", "server_error"),
}

UNIMPLEMENTED = 12
SPENT_WINDOW = (
    "the limit of requests for this %RESP(X-RATELIMIT-WINDOW)% is reached; try again after %RESP(RETRY-AFTER)% s"
)

# Answers whose body is already as it should be.
WRITTEN = "(has(response.code_details) && response.code_details in ['direct_response', 'lua_response'])"
REVOKED = "(has(response.code_details) && response.code_details.startsWith('rbac_access_denied'))"
# What no route of the first pass could send on.
NOWHERE = "(response.code == 404 && has(response.code_details) && response.code_details == 'cluster_not_found')"
NO_METHOD = "no method answers this path and verb; see /docs"
NO_MODEL_PATH = "models serve no such path, or there is no such instance; see /docs"
GRPC = "('x-aiops-call' in request.headers && request.headers['x-aiops-call'].startsWith('application/grpc'))"
# Paths of the Open Inference Protocol, whose errors are one string.
PROTOCOL = "request.url_path.startsWith('/v2/')"
# Paths of model routes: /v1/… and /models/{model}/{instance}/….
OPENAI = "(request.url_path.startsWith('/v1/') || request.url_path.matches('^/models/[^/]+/[^/]+/.'))"


def local_replies() -> dict[str, object]:
    """The connection manager's `local_reply_config`; the first mapper that matches an answer writes it."""
    mappers = [
        _revoked(GRPC, None),
        _revoked(OPENAI, _openai(401)),
        _revoked(PROTOCOL, {"error": "%LOCAL_REPLY_BODY%"}),
        _revoked("true", _status(401)),
    ]
    mappers.append(_mapper(f"{NOWHERE} && {OPENAI}", openai_error(NO_MODEL_PATH, "unknown_url")))
    mappers.append(_mapper(f"{NOWHERE} && {PROTOCOL}", {"error": NO_MODEL_PATH}))
    mappers += [_mapper(f"{NOWHERE} && !{GRPC}", status(NO_METHOD, 404)), _grpc(404, NOWHERE, UNIMPLEMENTED)]
    mappers += _limited()
    mappers += [_grpc(code) for code in STATUSES]
    mappers.append(_mapper(PROTOCOL, {"error": "%LOCAL_REPLY_BODY%"}))
    for code in STATUSES:
        mappers.append(_mapper(f"{OPENAI} && response.code == {code}", _openai(code)))
    for code in STATUSES:
        mappers.append(_mapper(f"response.code == {code}", _status(code)))
    return {"mappers": mappers}


def openai_error(
    message: str, code: str, param: str | None = None, kind: str = "invalid_request_error"
) -> dict[str, object]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def status(message: str, http_code: int) -> dict[str, object]:
    """google.rpc.Status in JSON."""
    code, reason, _ = STATUSES[http_code]
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "aiops", "metadata": {}}
    return {"code": code, "message": message, "details": [info]}


def _limited() -> list[dict[str, object]]:
    """Of a request that a quota holds back: when it may come again."""
    text = {"body": {"inline_string": "request limit"}}
    grpc = _grpc(429, "true")
    grpc["body_format_override"] = {"text_format_source": {"inline_string": SPENT_WINDOW}}
    limited = "response.code == 429"
    openai = openai_error(SPENT_WINDOW, "rate_limit_exceeded", kind="rate_limit_error")
    return [
        grpc,
        {**_mapper(f"{limited} && {PROTOCOL}", {"error": SPENT_WINDOW}), **text},
        {**_mapper(f"{limited} && {OPENAI}", openai), **text},
    ]


def _openai(http_code: int) -> dict[str, object]:
    _, reason, kind = STATUSES[http_code]
    return openai_error("%LOCAL_REPLY_BODY%", reason.lower(), kind=kind)


def _status(http_code: int) -> dict[str, object]:
    return status("%LOCAL_REPLY_BODY%", http_code)


def _revoked(condition: str, body: dict[str, object] | None) -> dict[str, object]:
    mapper = _mapper(f"{REVOKED} && {condition}", body)
    return {**mapper, "status_code": 401, "body": {"inline_string": "the token is revoked"}}


def _grpc(http_code: int, condition: str = "true", code: int | None = None) -> dict[str, object]:
    code = STATUSES[http_code][0] if code is None else code
    mapper = _mapper(f"{GRPC} && response.code == {http_code} && {condition}", None)
    header = {"header": {"key": "grpc-status", "value": str(code)}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {**mapper, "headers_to_add": [header]}


def _mapper(condition: str, body: dict[str, object] | None) -> dict[str, object]:
    expression = typed(
        "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=f"!{WRITTEN} && {condition}"
    )
    shape = {"json_format": body} if body else {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}
    return {
        "filter": {
            "extension_filter": {"name": "envoy.access_loggers.extension_filters.cel", "typed_config": expression}
        },
        "body_format_override": shape,
    }
