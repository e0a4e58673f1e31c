"""Chats in the format of Phi-3, answered with the other generators or from the word lists."""

import random
from collections.abc import Callable

import tiny_facts as facts
import tiny_stories as stories
import tiny_words as w
from tiny_grammar import in_words, listing, person, prose, say, thing

Turn = tuple[str, str]  # question, answer

_SYSTEM = [
    "You are [a helpful|a friendly|a kind|an honest] assistant.",
    "You are [a patient teacher|a librarian|a small language model].",
    "[Answer briefly.|Answer in full sentences.|Be polite and clear.]",
    "You help {name} from {town}. [Use simple words.|Be friendly.]",
]
_HELLO = [
    ("[Hi|Hello|Good morning|Hi there|Good evening]!", "Hello! How can I help you today?"),
    ("[Hi|Hello], my name is {name}.", "Hello, {name}! How can I help you today?"),
    ("[Hello|Hi], I am {name} from {town}.", "Hello, {name}! How is the weather in {town} today?"),
    ("Who are you?", "I am a small language model. I can answer simple questions."),
    ("How are you?", "I am fine, thank you. What would you like to know?"),
    ("[Thank you|Thanks]!", "You are welcome!"),
    ("[Thank you|Thanks], that [was helpful|helps me].", "You are welcome! I am glad to help."),
    ("[Goodbye|Bye|See you]!", "Goodbye! Have a nice day."),
    ("I feel {feeling} today.", ("[I understand that you feel {feeling}. Would you like to talk"
     " about"
     " it?|You feel {feeling}? Tell me more about your day.]")),
]  # fmt: skip


def _hello(rng: random.Random) -> Turn:
    question, answer = rng.choice(_HELLO)
    slots = {
        "name": rng.choice(w.FEMALE + w.MALE),
        "town": rng.choice(w.TOWNS),
        "feeling": rng.choice(w.FEELINGS),
    }
    return say(rng, question, **slots), say(rng, answer, **slots)


def _fact(rng: random.Random) -> Turn:
    question, answer = facts.short_question(rng)
    return say(rng, "[{q}|{q}|Can you tell me: {q}|I have a question. {q}]", q=question), answer


def _sum(rng: random.Random) -> Turn:
    op, verb = rng.choice([("+", "plus"), ("-", "minus"), ("*", "times")])
    high = 12 if op == "*" else 60
    a, b = rng.randint(2, high), rng.randint(2, high)
    a, b = (max(a, b), min(a, b)) if op == "-" else (a, b)
    value = {"+": a + b, "-": a - b, "*": a * b}[op]
    if rng.random() < 0.4:
        return say(rng, "What is {a} {op} {b}?", a=a, b=b, op=op), f"{a} {op} {b} = {value}"
    question = say(
        rng, "[What is|How much is] {a} {op} {b}?", a=in_words(a), b=in_words(b), op=verb
    )
    return question, f"{in_words(a)} {verb} {in_words(b)} is {in_words(value)}.".capitalize()


def _problem(rng: random.Random) -> Turn:
    question, answer = facts.word_problem(rng).split("\n")
    return question, answer


def _story(rng: random.Random) -> Turn:
    p = person(rng)
    t, town = thing(rng), rng.choice(w.TOWNS)
    question = say(rng, "[Tell me|Write|I want to read|Invent] a [short|little|very short]"
                   " story about @a {job} [named|called] {n} and @a {x}[.|, please.]",
                   job=p.job.name, n=p.name, x=t.noun)  # fmt: skip
    answer = prose(rng, [
        "[once there was|in {town} lived] @a {adj} {job} [named|called] {n}, who {trait}.",
        "one {day} {they} [found|bought|saw|discovered] @a {c} {x} [near|behind] {place}.",
        "[{n} was {f}.|{n} took the {x} home and put it in {room}.|The {x} was {o}.]",
        ('[{they} showed it to {m}, who said: "What @a {o} {x}!"|{m} helped {them} to clean the'
        " {x}."
        '|"Is this your {x}?" {they} asked {m}, but {m} did not know it.]'),
        ("In the end, {n} [kept the {x}|gave the {x} to {m}|sold the {x} and bought {g}]"
        " and was {f2}."),
    ], town=town, adj=p.adj, job=p.job.name, n=p.name, trait=p.trait, day=rng.choice(w.DAYS),
        they=p.they, them=p.them, c=t.colour, x=t.noun, o=t.adj, place=rng.choice(w.PLACES),
        room=rng.choice(w.ROOMS), f=rng.choice(w.FEELINGS), f2=rng.choice(w.FEELINGS),
        m=rng.choice([n for n in w.FEMALE if n != p.name]), g=rng.choice(w.GROCERIES))  # fmt: skip
    return question, answer


def _reading(rng: random.Random) -> Turn:
    s = stories.setting(rng)
    text = prose(rng, [
        "{a} has @a {x_full}.", "{b} has @a {y_full}.", "{a} puts the {x} in the {box} in {room}.",
        "then {b} goes to {place} with the {y}.",
    ], **s)  # fmt: skip
    ask, reply = rng.choice([
        ("What colour is the {x}?", "The {x} is {x_col}."),
        ("What colour is the {y}?", "The {y} is {y_col}."),
        ("Where is the {x}?", "The {x} is in the {box} in {room}."),
        ("Where does {b} go?", "{b} goes to {place}."),
        ("Who has the {y}?", "{b} has the {y}."),
        ("Who owns the {x}?", "The {x} belongs to {a}."),
    ])  # fmt: skip
    return f"{text} {say(rng, ask, **s)}", say(rng, reply, **s)


def _sort(rng: random.Random) -> Turn:
    pool = rng.choice([w.FRUIT, w.OBJECTS, w.FEMALE, w.TOWNS])
    items = rng.sample(pool, rng.randint(3, 5))
    kind = rng.randrange(4)
    if kind == 0:
        return f"Sort these words: {', '.join(items)}.", f"{', '.join(sorted(items))}."
    if kind == 1:
        return (
            f"How many words are in this list: {', '.join(items)}?",
            f"There are {in_words(len(items))} words.",
        )
    if kind == 2:
        return f"Repeat the last word: {', '.join(items)}.", f"The last word is {items[-1]}."
    return f"Write the words backwards: {', '.join(items)}.", f"{', '.join(items[::-1])}."


def _list(rng: random.Random) -> Turn:
    n = rng.randint(2, 6)
    name, pool = rng.choice([
        ("colours", w.COLOURS), ("fruits", w.FRUIT_PLURAL), ("trees", w.TREES),
        ("musical instruments", w.INSTRUMENTS), ("sports", w.SPORTS), ("flowers", w.FLOWERS),
        ("vegetables", w.VEGETABLES), ("animals", tuple(a.name for a in w.ANIMALS)),
        ("jobs", tuple(j.name for j in w.JOBS)), ("feelings", w.FEELINGS),
    ])  # fmt: skip
    items = rng.sample(pool, n)
    question = say(
        rng, "[Name|List|Give me|Tell me] {n} {name}[.|, please.]", n=in_words(n), name=name
    )
    if rng.random() < 0.5:
        return question, "\n".join(f"{i}. {x}" for i, x in enumerate(items, 1))
    return question, f"{in_words(n).capitalize()} {name} are {listing(items)}."


def _explain(rng: random.Random) -> Turn:
    topic = rng.choice(list(w.EXPLANATIONS))
    question = say(
        rng, "[Explain {t}.|Can you explain {t}?|Please tell me {t}.|I want to know {t}.]", t=topic
    )
    return question, prose(rng, w.EXPLANATIONS[topic])


_ADVICE = [
    ("What should I pack for a trip to {town} by {vehicle}?", ("For a trip to {town} by {vehicle},"
     " take {food}, @a {x} and @a {y}. The weather there is {weather} in {season}.")),
    ("What can I give {a}, who likes {hobby}?", ("{a} likes {hobby}, so @a {x_adj} {x} or {flowers}"
     " [would be nice|could be a good present].")),
    ("I lost my {x}. [What should I do|Can you help me]?", ("Where did you last see the {x}?"
     " Look in {room} and in the {box} first, and then at {place}.")),
    ("What can I cook with {food}?", ("With {food} you can make soup. Add {food}, salt and a few"
     " vegetables, and cook it for twenty minutes.")),
    ("How can I learn {hobby}?", ("[Begin with small steps|Start slowly] and [practise|try it]"
     " every {day}. {hobby} needs time, so be patient.")),
    ("Write a sentence with the words {x} and {tree}.", "The {x} is under the {tree} tree."),
    ("Describe @a {x_full}.", "It is @a {x} that is {x_adj} and {x_col}."),
    ("Write a [short note|message] to {b} that I am at {place}.", ("Dear {b}, I am at {place} now."
     " [See you later!|Please come there.|I will be back on {day}.]")),
]  # fmt: skip


def _advice(rng: random.Random) -> Turn:
    s = stories.setting(rng)
    question, answer = rng.choice(_ADVICE)
    said = say(rng, answer, **s)
    return say(rng, question, **s), prose(rng, [said])


def _python(rng: random.Random) -> Turn:
    lines = facts.code(rng).split("\n\n# output:\n")
    program = "\n".join(x for x in lines[0].splitlines() if not x.startswith("# "))
    answer = lines[1].replace("# ", "")
    return f"What does this program print?\n{program}", f"It prints:\n{answer}"


_TURNS: list[tuple[Callable[[random.Random], Turn], int]] = [
    (_hello, 5), (_fact, 7), (_sum, 4), (_problem, 3), (_story, 4), (_reading, 4), (_sort, 3),
    (_list, 4), (_explain, 4), (_advice, 5), (_python, 1),
]  # fmt: skip


def chat(rng: random.Random) -> str:
    """A chat of a few turns, sometimes with a system message."""
    makers, weights = zip(*_TURNS, strict=True)
    parts = []
    if rng.random() < 0.25:
        rule = rng.choice(_SYSTEM)
        slots = {"name": rng.choice(w.FEMALE + w.MALE), "town": rng.choice(w.TOWNS)}
        parts.append(f"<|system|>\n{say(rng, rule, **slots)}<|end|>\n")
    size = rng.randint(200, 650)
    while sum(map(len, parts)) < size:
        question, answer = rng.choices(makers, weights)[0](rng)
        parts.append(f"<|user|>\n{question}<|end|>\n<|assistant|>\n{answer}<|end|>\n")
    return "".join(parts)
