"""Facts, sums, lists, records, recipes, reports and code, all consistent in themselves."""

import json
import random

import tiny_words as w
from tiny_grammar import in_words, listing, person, prose, say, thing

_OPS = {"+": "plus", "-": "minus", "*": "times"}
_AMOUNTS = (
    "2 cups of", "half a cup of", "1 spoon of", "100 grams of", "3 spoons of", "some", "a little",
    "250 grams of",
)  # fmt: skip


def explanation(rng: random.Random) -> str:
    """One natural or technical matter, explained in order."""
    topic = rng.choice(list(w.EXPLANATIONS))
    lead = rng.choice([
        f"{{a}} asked {topic}, and {{b}} explained it.", f"this is {topic}.",
        f"[many people wonder|children often ask|do you know] {topic}.",
        f"in this lesson we learn {topic}.",
    ])  # fmt: skip
    links = ["", "", "[after that|then|so|in short], "]
    steps = [rng.choice(links) + s if i > 1 else s for i, s in enumerate(w.EXPLANATIONS[topic])]
    close = rng.choice(["", "[now you know|that is|in short, this is] " + topic + "."])
    a, b = rng.sample(w.FEMALE, 2)
    return prose(rng, [lead, *steps, close], a=a, b=b)


def animal(rng: random.Random) -> str:
    """A description of one animal, compared with another one."""
    one, two = rng.sample(w.ANIMALS, 2)
    legs = f"{in_words(one.legs)} legs" if one.legs else "no legs"
    order = "larger" if one.size > two.size else "smaller"
    body = [
        "[the {one} has|@a {one} has|all {ones} have] {legs} and a body covered with {cover}.",
        "{ones} [live in|are found in|make their homes in] {home}.",
        "[they|{ones}] [eat|feed on|like] {food}.",
        "[they|{ones}] {sound}[ at night| when they are afraid| to call each other|].",
        "[{twos} are different|it is not so with {twos}]: they live in {home2} and eat {food2}.",
        "" if one.size == two.size else "@a {one} is {order} than @a {two}[, of course|].",
        "a group of {n} {ones} has {all} [legs|legs in all].",
    ]  # fmt: skip
    head, rest = body[0], body[1:]
    rng.shuffle(rest)
    count = rng.randint(2, 9)
    return prose(
        rng, [head, *rest[: rng.randint(3, 6)]], one=one.name, ones=one.plural, legs=legs,
        cover=one.cover, home=one.home, food=one.food, sound=one.sound, twos=two.plural,
        two=two.name, home2=two.home, food2=two.food, order=order, n=in_words(count),
        all=in_words(count * one.legs) if one.legs else "no",
    )  # fmt: skip


def material(rng: random.Random) -> str:
    """A material and an object made of it."""
    m, other = rng.sample(w.MATERIALS, 2)
    t = thing(rng)
    return prose(rng, [
        "{m} comes from {src}.", "it is {q}.", "[people|we] use {m} for {things}.",
        "{o}, however, is {q2} and comes from {src2}; it is used for {things2}.",
        "[would you make {one} out of {m}? Yes, because {m} is {q}.|{one} are often made of {m}.]",
        ("{p} the {job} owns @a {adj} {noun}, [but nobody knows|and {they} knows] whether it is"
        " [made of {m} or of {o}|{m} or {o}]."),
    ], m=m.name, src=m.source, q=m.quality, things=listing(list(m.things)), o=other.name,
        q2=other.quality, src2=other.source, things2=listing(list(other.things)),
        one=rng.choice(m.things), adj=t.adj, noun=t.noun, **_who(rng))  # fmt: skip


def _who(rng: random.Random) -> dict[str, str]:
    p = person(rng)
    return {"p": p.name, "they": p.they, "their": p.their, "job": p.job.name, "tool": p.job.tool,
            "work": p.job.place, "task": p.job.task}  # fmt: skip


def sum_line(rng: random.Random) -> str:
    """One correct calculation, in digits or in words."""
    op = rng.choice("+-*")
    a, b = rng.randint(2, 12 if op == "*" else 99), rng.randint(2, 12 if op == "*" else 99)
    if op == "-":
        a, b = max(a, b), min(a, b)
    value = {"+": a + b, "-": a - b, "*": a * b}[op]
    if rng.random() < 0.6:
        return f"{a} {op} {b} = {value}"
    return f"{in_words(a)} {_OPS[op]} {in_words(b)} is {in_words(value)}".capitalize() + "."


def word_problem(rng: random.Random) -> str:
    """A small problem with people and things, and its solution."""
    a, b = rng.sample(w.FEMALE + w.MALE, 2)
    item, n, k = rng.choice(w.COUNTABLE), rng.randint(5, 40), rng.randint(2, 20)
    kind = rng.randrange(4)
    if kind == 0:
        ask = (
            f"{a} has {n} {item} and [gets|buys|finds] {k} more. How many {item} does {a} have now?"
        )
        work = f"{n} + {k} = {n + k}, so {a} has {n + k} {item}."
    elif kind == 1:
        n += k
        ask = f"{a} has {n} {item} and gives {k} of them to {b}. How many {item} are left?"
        work = f"{n} - {k} = {n - k}, so {a} has {n - k} {item} left and {b} got {k}."
    elif kind == 2:
        n, k = rng.randint(2, 12), rng.randint(2, 12)
        ask = f"{a} fills {n} boxes with {k} {item} each. How many {item} are there?"
        work = f"{n} * {k} = {n * k}, so there are {n * k} {item} in {n} boxes."
    else:
        n, k = rng.randint(2, 9), rng.randint(2, 12)
        ask = f"{a} shares {n * k} {item} among {n} friends. How many {item} does each friend get?"
        work = f"{n * k} / {n} = {k}, so each friend gets {k} {item}."
    return f"{say(rng, ask)}\n{work}"


def arithmetic(rng: random.Random) -> str:
    """A page of sums, or word problems, or long addition step by step."""
    kind = rng.randrange(3)
    if kind == 0:
        return "\n".join(sum_line(rng) for _ in range(rng.randint(10, 18)))
    if kind == 1:
        return "\n\n".join(word_problem(rng) for _ in range(rng.randint(2, 4)))
    parts = []
    for _ in range(rng.randint(2, 3)):
        a, b = rng.randint(12, 89), rng.randint(12, 89)
        tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
        parts.append(
            f"Add {a} and {b}. The tens: {a // 10 * 10} + {b // 10 * 10} = {tens}. The ones: "
            f"{a % 10} + {b % 10} = {ones}. Together: {tens} + {ones} = {a + b}. "
            f"In words, {in_words(a)} plus {in_words(b)} is {in_words(a + b)}."
        )
    return "\n".join(parts)


def counting(rng: random.Random) -> str:
    """A row of numbers with a fixed step, in digits and in words."""
    start, step, count = rng.randint(0, 30), rng.choice([1, 2, 3, 5, 10]), rng.randint(8, 14)
    row = [start + i * step for i in range(count)]
    item = rng.choice(w.COUNTABLE)
    name = rng.choice(w.FEMALE + w.MALE)
    lines = [
        f"{name} counts {item} in steps of {in_words(step)}, beginning with {in_words(start)}.",
        ", ".join(map(str, row)) + ".",
        ", ".join(in_words(n) for n in row).capitalize() + ".",
        f"The next number is {row[-1] + step}, because {row[-1]} + {step} = {row[-1] + step}.",
        f"Backwards: {', '.join(str(n) for n in reversed(row))}.",
    ]
    return "\n".join(lines[: rng.randint(3, 5)])


def comparison(rng: random.Random) -> str:
    """Three people or things in an order, then questions about the order."""
    who = rng.sample(w.FEMALE + w.MALE, 3)
    word, least, most, unit, low, high = rng.choice([
        ("older", "youngest", "oldest", "years old", 6, 90),
        ("taller", "shortest", "tallest", "centimetres tall", 110, 199),
        ("heavier", "lightest", "heaviest", "kilograms heavy", 30, 99),
        ("richer", "poorest", "richest", "coins rich", 5, 900),
    ])  # fmt: skip
    values = rng.sample(range(low, high), 3)
    rank = sorted(zip(values, who, strict=True), reverse=True)
    facts = [f"{n} is {v} {unit}." for v, n in zip(values, who, strict=True)]
    (v1, n1), (v2, n2), (v3, n3) = rank
    tail = [
        f"{n1} is {word} than {n2}, because {v1} is more than {v2}.",
        f"{n2} is {word} than {n3}, because {v2} is more than {v3}.",
        f"So {n1} is the {most} and {n3} is the {least}.",
        f"Who is the {most}? {n1}. Who is the {least}? {n3}.",
        f"The difference between {n1} and {n3} is {v1 - v3}.",
        f"Together they have {v1} + {v2} + {v3} = {v1 + v2 + v3}.",
    ]
    return " ".join(facts + sorted(rng.sample(tail, rng.randint(3, 5)), key=tail.index))


def recipe(rng: random.Random) -> str:
    """A dish with amounts and steps that use just its ingredients."""
    dish = rng.choice(list(w.DISHES))
    parts = list(w.DISHES[dish])
    rng.shuffle(parts)
    rows = [f"- {rng.choice(_AMOUNTS)} {p}" for p in parts]
    steps = [
        "[wash|prepare|measure] the {0}.", "[mix|stir] the {0} and the {1} in a [bowl|pot].",
        "add the {2} [slowly|and stir well|and wait five minutes].",
        "[put|pour] in the {3} and [cook|heat|bake] it for {n} minutes.",
        "[at the end|finally], add the {4} and [serve it warm|let it cool|taste it].",
    ]  # fmt: skip
    n = rng.choice([5, 10, 15, 20, 30, 40])
    lines = [
        f"{i}. {prose(rng, [s.replace('{n}', str(n)).format(*parts)])}"
        for i, s in enumerate(steps, 1)
    ]
    head = f"{dish.capitalize()} for {in_words(rng.randint(2, 8))} people"
    return "\n".join([head, "", "You need:", *rows, "", *lines])


def shopping(rng: random.Random) -> str:
    """A shopping list with prices and a correct total."""
    items = rng.sample(w.GROCERIES + w.VEGETABLES, rng.randint(4, 8))
    prices = [rng.randint(1, 15) for _ in items]
    p = person(rng)
    paid = sum(prices) + rng.choice([0, 1, 2, 5, 10])
    rows = [f"{i}: {c} coin{'s' if c > 1 else ''}" for i, c in zip(items, prices, strict=True)]
    dear = max(prices)
    text = prose(rng, [
        f"the total is {' + '.join(map(str, prices))} = {sum(prices)} coins.",
        f"{p.name} pays {paid} coins and gets {paid - sum(prices)} back." if paid > sum(prices) else
        f"{p.name} pays {paid} coins, and there is no change.",
        f"the most expensive thing is {items[prices.index(dear)]} at {dear} coins."
        if prices.count(dear) == 1 and dear > 1 else "",
        f"{p.name} [forgot|did not need] {rng.choice([g for g in w.GROCERIES if g not in items])}.",
        f"at home {p.they} puts {listing(items[:3])} into the {rng.choice(w.CONTAINERS)}.",
    ])  # fmt: skip
    return "\n".join([f"{p.name}'s shopping list", *rows, text])


def record(rng: random.Random) -> str:
    """Sentences and the JSON record with the same facts."""
    p, last, town = person(rng), rng.choice(w.FAMILY), rng.choice(w.TOWNS)
    age, likes = rng.randint(18, 80), rng.sample(w.HOBBIES, rng.randint(1, 3))
    pet = rng.choice([None, *(a.name for a in w.ANIMALS[:6])])
    data: dict[str, object] = {
        "name": f"{p.name} {last}", "age": age, "job": p.job.name, "town": town,
        "hobbies": likes, "pet": pet, "member": rng.random() < 0.5,
    }  # fmt: skip
    keep = [k for k in data if k == "name" or rng.random() < 0.8]
    lines = {
        "age": f"{p.they} is {age} years old.", "job": f"{p.they} works as @a {p.job.name}.",
        "town": f"{p.they} lives in {town}.", "hobbies": f"{p.they} likes {listing(likes)}.",
        "pet": f"{p.they} has @a {pet}." if pet else f"{p.they} has no pet.",
        "member": f"{p.they} is {'' if data['member'] else 'not '}a member of the club.",
    }  # fmt: skip
    text = prose(rng, [f"this is {p.name} {last}.", *(lines[k] for k in keep if k != "name")])
    code = json.dumps({k: data[k] for k in keep}, indent=rng.choice([None, 2]))
    return f"{text}\n{code}" if rng.random() < 0.6 else f"{code}\n{text}"


def weather(rng: random.Random) -> str:
    """A weather report for a few days."""
    town, start = rng.choice(w.TOWNS), rng.randrange(7)
    temps, rows = [rng.randint(-5, 32) for _ in range(rng.randint(3, 5))], []
    for i, t in enumerate(temps):
        rows.append(say(rng, "{d}: {k}, {t} °C, [a light|a strong|almost no|a cold] wind from the"
                        " [north|south|east|west][, rain in the evening|, fog in the morning|].",
                        d=w.DAYS[(start + i) % 7], k=rng.choice(w.WEATHER), t=t))  # fmt: skip
    best = temps.index(max(temps))
    worst = temps.index(min(temps))
    rows.append(
        f"The warmest day will be {w.DAYS[(start + best) % 7]} with {max(temps)} °C, and the "
        f"coldest {w.DAYS[(start + worst) % 7]} with {min(temps)} °C. "
        + ("Take a warm coat." if min(temps) < 5 else "No coat is needed.")
    )
    return "\n".join([f"Weather report for {town}", *rows])


def code(rng: random.Random) -> str:
    """A short Python program and what it prints."""
    item = rng.choice(w.COUNTABLE)
    nums = [rng.randint(1, 20) for _ in range(rng.randint(3, 6))]
    words = rng.sample(w.FRUIT + w.OBJECTS, rng.randint(3, 4))
    k, n = rng.randint(2, 9), rng.randint(3, 6)
    f = rng.choice(["scale", "multiply", "grow", "compute", "apply"])
    programs = [
        (f"{item} = {nums}\ntotal = 0\nfor n in {item}:\n    total += n\nprint(total)", sum(nums)),
        (f"def {f}(x):\n    return x * {k}\n\n\nprint({f}({n}))", n * k),
        (
            (f'def {f}(x, y={k}):\n    """Add two numbers."""\n    return x + y\n\n\n'
            f"print({f}({n}))"),
            n + k,
        ),
        (f"words = {words!r}\nfor word in words:\n    print(word)", "\n".join(words)),
        (f"words = {words!r}\nprint(len(words), words[0])", f"{len(words)} {words[0]}"),
        (f"for i in range({n}):\n    print(i, i * {k})",
         "\n".join(f"{i} {i * k}" for i in range(n))),
        (f"{item} = {nums}\nprint(max({item}), min({item}))", f"{max(nums)} {min(nums)}"),
        (f"{item} = {nums}\nprint([n for n in {item} if n > {k}])", [x for x in nums if x > k]),
        (f"stock = {{{words[0]!r}: {k}, {words[1]!r}: {n}}}\nprint(stock[{words[1]!r}])", n),
        (f"x = {k}\nwhile x < {k * 5}:\n    x = x + {k}\nprint(x)", k * 5),
        (f"if {k} > {n}:\n    print({words[0]!r})\nelse:\n    print({words[1]!r})",
         words[0] if k > n else words[1]),
    ]  # fmt: skip
    text, out = rng.choice(programs)
    name = rng.choice(w.FEMALE + w.MALE)
    lead = rng.choice(["", f"# written by {name}\n", f"# count the {item}\n", "# an example\n"])
    return f"{lead}{text}\n\n# output:\n" + "\n".join(f"# {r}" for r in str(out).splitlines())


def quiz(rng: random.Random) -> str:
    """Short questions with short answers."""
    return "\n".join(
        f"Q: {q}\nA: {a}" for q, a in (short_question(rng) for _ in range(rng.randint(4, 8)))
    )


def short_question(rng: random.Random) -> tuple[str, str]:
    """One question about the small world of the word lists, and its answer."""
    x, m, j = rng.choice(w.ANIMALS), rng.choice(w.MATERIALS), rng.choice(w.JOBS)
    land, word, one = (rng.choice(list(d)) for d in (w.CAPITALS, w.OPPOSITES, w.PLURALS))
    day = rng.randrange(7)
    legs = in_words(x.legs) if x.legs else "no"
    return rng.choice([
        (f"What is the capital of {land}?", f"The capital of {land} is {w.CAPITALS[land]}."),
        (f"What is the opposite of {word}?", f"The opposite of {word} is {w.OPPOSITES[word]}."),
        (f"What is the plural of {one}?", f"The plural of {one} is {w.PLURALS[one]}."),
        (f"What do {x.plural} eat?", f"{x.plural.capitalize()} eat {x.food}."),
        (f"Where do {x.plural} live?", f"{x.plural.capitalize()} live in {x.home}."),
        (say(rng, "How many legs does @a {n} have?", n=x.name),
         say(rng, "A {n} has {k} legs." if x.name[0] not in "aeo" else "An {n} has {k} legs.",
         n=x.name, k=legs)),
        (f"What is {m.name} like?", f"{m.name.capitalize()} is {m.quality}."),
        (f"Where does {m.name} come from?", f"{m.name.capitalize()} comes from {m.source}."),
        (f"What can be made of {m.name}?", f"For example {listing(list(m.things))}."),
        (say(rng, "What does @a {n} do?", n=j.name), say(rng, "@a {n} {t}.", n=j.name,
         t=j.task).capitalize()),
        (say(rng, "Where does @a {n} work?", n=j.name), f"At the {j.place}."),
        (say(rng, "What tool does @a {n} use?", n=j.name), say(rng, "@a {t}.",
         t=j.tool).capitalize()),
        (f"Which day comes after {w.DAYS[day]}?", f"{w.DAYS[(day + 1) % 7]}."),
        (f"Which day comes before {w.DAYS[day]}?", f"{w.DAYS[day - 1]}."),
    ])  # fmt: skip
