"""Chooses the engine of this node that runs a model."""

from collections.abc import Sequence

from node_agent.engines.engine import Engine, EngineUnavailableError

# vLLM on a processor needs about this much for itself before the first weight (measured 2.9 to 4.4 GB).
_VLLM_CPU_FREE_MB = 6_000
_REMEDY = {
    "triton": "choose another node, set AIOPS_ENGINE_TRITON, or put tritonserver on the path",
    "llamacpp": "choose another node, set AIOPS_ENGINE_LLAMACPP, or put llama-server on the path",
}


def choose(framework: str, task: str, engines: Sequence[Engine], has_gpu: bool, free_memory_mb: int) -> Engine:
    """The engine for a model of this framework (`vllm`, `triton`, `llamacpp`) and task, from those found on this node.

    A language model asks for vLLM. It gets it when vLLM is here and has room; a node that is small or has no vLLM
    serves it with Transformers, which speaks the same API. Raises EngineUnavailableError with what this node does have.
    """
    found = {engine.name: engine for engine in engines}
    have = f"it has {', '.join(found)}" if found else "it has none"
    if framework == "triton" and framework in found:
        return found[framework]
    if framework != "vllm" and not (framework == "llamacpp" and framework in found):
        raise EngineUnavailableError(
            f"engine for framework {framework} is not on this node ({have}); "
            f"{_REMEDY.get(framework, 'choose another node, or framework vllm for a language model')}",
            framework=framework,
        )
    if task != "llm":
        raise EngineUnavailableError(
            f"no engine on this node serves task {task} ({have}): vllm, transformers and llamacpp serve task llm",
            task=task,
        )
    if framework == "llamacpp":
        return found[framework]
    roomy = has_gpu or free_memory_mb >= _VLLM_CPU_FREE_MB
    order = ("vllm", "transformers") if roomy else ("transformers", "vllm")
    for name in order:
        if name in found:
            return found[name]
    raise EngineUnavailableError(
        f"engine for framework {framework} is not on this node ({have}); "
        "set AIOPS_ENGINE_TRANSFORMERS or put vllm on the path",
        framework=framework,
    )
