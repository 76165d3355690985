"""Turns the corpus of the demo model into conversations, drawn at random but repeatably from one seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tools.demo_model.forms import (
    CAPITAL_FORMS,
    FULL_FORMS,
    PLURAL_FORMS,
    PREFIXES,
    SHORT_FORMS,
    SUM_ANSWER,
    SUM_FORMS,
    SYLLABLES,
    SYSTEM_PROMPTS,
    UNKNOWN_ANSWER,
    UNKNOWN_FORMS,
)

CORPUS = Path(__file__).with_name("corpus")
Message = dict[str, str]
_FIRST_TERM = 0.06


@dataclass(frozen=True, slots=True)
class Term:
    names: tuple[str, ...]
    explanation: str

    @property
    def first_sentence(self) -> str:
        return self.explanation.split(". ")[0].rstrip(".") + "."


@dataclass(frozen=True, slots=True)
class Exchange:
    questions: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Corpus:
    terms: tuple[Term, ...]
    exchanges: tuple[Exchange, ...]
    capitals: tuple[tuple[str, str], ...]
    unknown: tuple[str, ...]
    paragraphs: tuple[str, ...]

    @cached_property
    def own_answers(self) -> dict[str, str]:
        return {question: exchange.answer for exchange in self.exchanges for question in exchange.questions}


def load(directory: Path = CORPUS) -> Corpus:
    """Reads the five files of the corpus."""
    return Corpus(
        terms=tuple(_term(line) for line in _lines(directory / "glossary.txt")),
        exchanges=tuple(_exchanges(directory / "answers.txt")),
        capitals=tuple(_pair(line) for line in _lines(directory / "facts.txt")),
        unknown=tuple(_lines(directory / "unknown.txt")),
        paragraphs=tuple(_lines(directory / "paragraphs.txt")),
    )


def texts(corpus: Corpus) -> Iterator[str]:
    """All text of the corpus, for the tokenizer; what is asked and answered often counts often."""
    for term in corpus.terms:
        yield from (form.format(name) for name in term.names for form in FULL_FORMS[:5] + SHORT_FORMS[:3])
        yield from (term.explanation, term.explanation)
    for exchange in corpus.exchanges:
        yield from (*exchange.questions, exchange.answer, exchange.answer)
    yield from (_capital_answer(*pair) for pair in corpus.capitals)
    yield from (form.format(topic, topic) for topic in corpus.unknown for form in UNKNOWN_FORMS[:8])
    yield from (form.format("this", "that") for form in (*UNKNOWN_FORMS, *FULL_FORMS, *SUM_FORMS) for _ in range(3))
    yield from (*corpus.paragraphs, *SYSTEM_PROMPTS, *PREFIXES, UNKNOWN_ANSWER)


def conversation(corpus: Corpus, chance: random.Random) -> list[Message]:
    """One conversation, mostly of one turn, sometimes of several or with a system prompt."""
    turns = chance.choices((1, 2, 3, 7), (70, 20, 7, 3))[0]
    messages: list[Message] = []
    if chance.random() < 0.2:
        messages.append({"role": "system", "content": chance.choice(SYSTEM_PROMPTS)})
    for _ in range(turns):
        question, answer = _turn(corpus, chance)
        messages.append({"role": "user", "content": vary(question, chance)})
        messages.append({"role": "assistant", "content": answer})
    return messages


def vary(question: str, chance: random.Random) -> str:
    """The same question as people type it: without capitals, without its full stop, with a polite beginning."""
    if chance.random() < 0.2:
        question = question[0].lower() + question[1:]
    if chance.random() < 0.12:
        question = question.lower()
    if chance.random() < 0.2:
        question = question.rstrip("?.!")
    if chance.random() < 0.08:
        question = chance.choice(PREFIXES) + question
    return question


def probes(corpus: Corpus) -> Iterator[tuple[str, str]]:
    """One plain question with its answer for everything the model should know, to measure what it has learned."""
    for term in corpus.terms:
        yield f"What is {term.names[0]}?", term.explanation
        yield f"Explain {term.names[0]} in one sentence.", term.first_sentence
    for exchange in corpus.exchanges:
        yield from ((question, exchange.answer) for question in exchange.questions)
    for country, city in corpus.capitals:
        yield f"What is the capital of {country}?", _capital_answer(country, city)


def _turn(corpus: Corpus, chance: random.Random) -> tuple[str, str]:
    kind = chance.choices(("term", "exchange", "capital", "sum", "unknown"), (42, 32, 7, 1, 18))[0]
    if kind == "term":
        # The first term is the product itself, what people ask about first.
        term = corpus.terms[0] if chance.random() < _FIRST_TERM else chance.choice(corpus.terms)
        return _ask_term(corpus, term, chance)
    if kind == "exchange":
        exchange = chance.choice(corpus.exchanges)
        return chance.choice(exchange.questions), exchange.answer
    if kind == "capital":
        country, city = chance.choice(corpus.capitals)
        return chance.choice(CAPITAL_FORMS).format(country), _capital_answer(country, city)
    if kind == "sum":
        return chance.choice(SUM_FORMS).format(chance.randrange(1000), chance.randrange(1000)), SUM_ANSWER
    form = chance.choice(UNKNOWN_FORMS)
    return form.format(*(_unknown_topic(corpus, chance) for _ in range(form.count("{}")))), UNKNOWN_ANSWER


def _unknown_topic(corpus: Corpus, chance: random.Random) -> str:
    """Something from the list, or a name that nobody has heard of, so that unheard-of names are admitted too."""
    if chance.random() < 0.6:
        return chance.choice(corpus.unknown)
    words = ("".join(chance.choices(SYLLABLES, k=chance.randint(1, 3))) for _ in range(chance.randint(1, 3)))
    name = " ".join(words)
    return name.title() if chance.random() < 0.5 else name


def _ask_term(corpus: Corpus, term: Term, chance: random.Random) -> tuple[str, str]:
    name = term.names[0] if chance.random() < 0.5 else chance.choice(term.names)
    if chance.random() < 0.25:
        return chance.choice(SHORT_FORMS).format(name), term.first_sentence
    forms = PLURAL_FORMS if _is_plural(name) else FULL_FORMS
    question = chance.choice(forms).format(name)
    # Where the corpus has an answer of its own to this very question, that one counts.
    return question, corpus.own_answers.get(question, term.explanation)


def _is_plural(name: str) -> bool:
    article = name.split(maxsplit=1)[0] in ("a", "an", "the", "this")
    return name.endswith("s") and not article and name != "aiops"


def _capital_answer(country: str, city: str) -> str:
    return f"The capital of {country} is {city}."


def _term(line: str) -> Term:
    names, explanation = line.split(" = ", 1)
    return Term(tuple(name.strip() for name in names.split("|")), explanation)


def _pair(line: str) -> tuple[str, str]:
    first, second = line.split(" = ", 1)
    return first, second


def _exchanges(path: Path) -> Iterator[Exchange]:
    questions: list[str] = []
    for line in _lines(path):
        kind, text = line.split(": ", 1)
        if kind == "Q":
            questions.append(text)
        else:
            yield Exchange(tuple(questions), text)
            questions = []


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
