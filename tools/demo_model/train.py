"""Trains the demo model on the corpus beside this file and writes a Hugging Face directory.

    OMP_WAIT_POLICY=PASSIVE python -m tools.demo_model.train --out examples/demo-model

Runs in the engine environment (torch, transformers), needs no network and no GPU, and takes about ten minutes on two
cores; the variable keeps it from standing still when it shares them with other work.
"""

import argparse
import math
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.demo_model import conversations
from tools.demo_model.conversations import Corpus, Message

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCABULARY = 2048
CONTEXT = 2048
LONGEST = 512
IGNORED = -100


def main() -> None:
    arguments = parse()
    torch.manual_seed(arguments.seed)
    corpus = conversations.load()
    tokenizer = train_tokenizer(corpus)
    model = LlamaForCausalLM(architecture(tokenizer))
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    started = time.monotonic()
    chance = random.Random(arguments.seed)  # noqa: S311 - has to be repeatable, not secret
    train(model, batches(corpus, tokenizer, chance, arguments.batch), arguments.steps)
    minutes = (time.monotonic() - started) / 60
    model = model.to(torch.bfloat16)
    save(model, tokenizer, arguments.out)
    right, asked = examine(model, tokenizer, corpus)
    print(f"trained {minutes:.1f} minutes; {right} of {asked} questions answered word for word")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("examples/demo-model"))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=48, help="conversations in one step")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def train_tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """A byte-level BPE, so that any text of any language can be written, if not understood."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=[PAD, BEGIN, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(conversations.texts(corpus), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def architecture(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def batches(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, chance: random.Random, size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (token ids, labels), each (batch, longest): int64, padded; labels outside of answers are IGNORED."""
    while True:
        pool = [example(corpus, tokenizer, chance) for _ in range(size * 16)]
        pool.sort(key=lambda pair: len(pair[0]))
        starts = list(range(0, len(pool), size))
        chance.shuffle(starts)
        for start in starts:
            yield padded(pool[start : start + size], tokenizer.pad_token_id)


def example(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, chance: random.Random) -> tuple[list[int], list[int]]:
    if chance.random() < 0.05:
        text = chance.choice((chance.choice(corpus.paragraphs), chance.choice(corpus.terms).explanation))
        ids = tokenizer.encode(BEGIN + text + END, add_special_tokens=False)
        return ids[:LONGEST], ids[:LONGEST]
    ids, labels = encode(conversations.conversation(corpus, chance), tokenizer)
    return ids[:LONGEST], labels[:LONGEST]


def encode(messages: list[Message], tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Writes a conversation as the chat template does; only answers and their ends are learned."""
    ids = [tokenizer.bos_token_id]
    labels = [IGNORED]
    for message in messages:
        role = tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>")
        text = [*tokenizer.encode(message["content"], add_special_tokens=False), tokenizer.eos_token_id]
        ids += [role, *text]
        labels += [IGNORED, *(text if message["role"] == "assistant" else [IGNORED] * len(text))]
    return ids, labels


def padded(pairs: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids, _ in pairs)
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in pairs])
    labels = torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in pairs])
    return ids, labels


def train(model: LlamaForCausalLM, source: Iterator[tuple[torch.Tensor, torch.Tensor]], steps: int) -> None:
    """AdamW with a short warm-up and a cosine end. Padding follows every row, so causal attention needs no mask."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.02)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))) + 0.01,
    )
    model.train()
    for step in range(steps):
        ids, labels = next(source)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.4f}", flush=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the directory; a model card that is already there stays."""
    out.mkdir(parents=True, exist_ok=True)
    # A low temperature instead of greedy search: the answers hardly vary, and a caller's own temperature is honoured.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.1,
        max_new_tokens=128,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    shutil.rmtree(out / ".cache", ignore_errors=True)


def examine(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> tuple[int, int]:
    """Counts greedy answers that are word for word what the corpus says, and prints the first misses."""
    model.eval()
    right = asked = 0
    for question, expected in conversations.probes(corpus):
        asked += 1
        said = answer(model, tokenizer, question)
        right += said == expected
        if said != expected and asked - right <= 20:
            print(f"missed: {question} -> {said}")
    return right, asked


def answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        output = model.generate(**inputs, do_sample=False, temperature=None, max_new_tokens=128)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
