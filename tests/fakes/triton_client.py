"""NVIDIA's own client as a program, run by the engine environment's Python: URL, token, then calls as JSON on stdin."""

import base64
import http.client
import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http


def main() -> None:
    """Answers each call with its outputs or its error."""
    url, token = sys.argv[1:]
    headers = {"authorization": f"Bearer {token}"}
    print(json.dumps([answer(url, headers, call) for call in json.load(sys.stdin)]))


def answer(url: str, headers: dict[str, str], call: dict[str, Any]) -> Any:
    module = over_grpc if call["over"] == "grpc" else over_http
    client = module.InferenceServerClient(url)
    try:
        return CALLS[call["do"]](module, client, headers, call)
    except Exception as error:  # noqa: BLE001 - it is what the caller wants to see
        return {"error": str(error)}
    finally:
        client.close()


def infer(module: Any, client: Any, headers: dict[str, str], call: dict[str, Any]) -> Any:
    if module is over_http:
        result = binary_infer(headers, call)
    else:
        result = client.infer(call["model"], [tensor(module, call)], headers=headers)
    return {name: words(result.as_numpy(name)) for name in call["outputs"]}


def binary_infer(headers: dict[str, str], call: dict[str, Any]) -> Any:
    """The client's own bytes both ways; its transport gives its HTTP library a header that is a number, which fails."""
    client = over_http.InferenceServerClient
    body, size = client.generate_request_body([tensor(over_http, call)])
    connection = http.client.HTTPConnection(sys.argv[1], timeout=20)
    extended = {**headers, "inference-header-content-length": str(size)}
    connection.request("POST", f"/v2/models/{call['model']}/infer", body, extended)
    answer = connection.getresponse()
    length = answer.headers["inference-header-content-length"]
    return client.parse_response_body(answer.read(), header_length=int(length) if length else None)


def stream(module: Any, client: Any, headers: dict[str, str], call: dict[str, Any]) -> Any:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
    for _ in range(call["times"]):
        client.async_stream_infer(call["model"], [tensor(module, call)])
    taken = [answers.get(timeout=20) for _ in range(call["times"])]
    client.stop_stream()
    return [str(error) if error else {n: words(result.as_numpy(n)) for n in call["outputs"]} for result, error in taken]


def ready(_: Any, client: Any, headers: dict[str, str], call: dict[str, Any]) -> Any:
    return client.is_model_ready(call["model"], headers=headers)


def metadata(_: Any, client: Any, headers: dict[str, str], call: dict[str, Any]) -> Any:
    options = {"as_json": True} if call["over"] == "grpc" else {}
    return client.get_model_metadata(call["model"], headers=headers, **options)


def unload(_: Any, client: Any, headers: dict[str, str], call: dict[str, Any]) -> Any:
    return client.unload_model(call["model"], headers=headers)


def tensor(module: Any, call: dict[str, Any]) -> Any:
    given = module.InferInput(call["input"], [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[base64.b64decode(call["content"])]], dtype=np.object_))
    return given


def words(array: Any) -> list[Any]:
    return [each.decode() if isinstance(each, bytes) else float(each) for each in array.reshape(-1)]


CALLS = {"infer": infer, "stream": stream, "ready": ready, "metadata": metadata, "unload": unload}

if __name__ == "__main__":
    main()
