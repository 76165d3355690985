"""What a model's chat template tells of the model: whether it knows tools, and how it writes a call of one."""

from pathlib import Path

# What a template writes around a call, most telling first, and vLLM's name for whoever reads it back.
_PARSERS = (
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_start|>", "llama4_pythonic"),
    ("<|python_tag|>", "llama3_json"),
    ("<minimax:tool_call>", "minimax_m2"),
    ("<seed:tool_call>", "seed_oss"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<｜tool▁calls▁begin｜>", "deepseek_v3"),
    ("<|action_start|>", "internlm"),
    ("<start_function_call>", "functiongemma"),
    ("<|channel|>commentary", "openai"),
    ("<function=", "qwen3_coder"),
    ("<arg_key>", "glm45"),
    ("<tool_call>", "hermes"),
    ("<|tool_call|>", "granite"),
)


def chat_template(model_dir: Path) -> str:
    """The template, or what holds it; empty for a model without one."""
    template = model_dir / "chat_template.jinja"
    if template.is_file():
        return template.read_text(encoding="utf-8", errors="replace")
    tokenizer = model_dir / "tokenizer_config.json"
    # The older place; the whole file may stand for the template, for only single words matter.
    return tokenizer.read_text(encoding="utf-8", errors="replace") if tokenizer.is_file() else ""


def mentions(template: str, word: str) -> bool:
    """Whether the template reads the variable; what it does not read is dropped."""
    return word in template


def tool_parser(template: str) -> str:
    """The parser of vLLM that reads this template's tool calls; empty when there is none that is known to."""
    if not mentions(template, "tools"):
        return ""
    return next((parser for mark, parser in _PARSERS if mark in template), "")
