"""Freer prose built clause by clause, lives, histories, opinions, notices and riddles."""

import random

import tiny_words as w
from tiny_grammar import in_words, listing, person, prose, say, thing
from tiny_stories import setting

_SUBJECTS = [
    "{a}", "{a}", "{b}", "the {a_job}", "the {b_job}", "{folk}", "the {animal}", "{c} the {c_job}",
    "the {b_adj} {b_job}", "[nobody|everybody|somebody] [at|near] {place}", "{a} and {b}",
    "the people of {town}",
]  # fmt: skip
_ADVERBIALS = [
    "in {room}", "near {place}", "behind {place2}", "on {day}", "in {month}",
    "before [noon|sunset]",
    "after the {sport} game", "without @a word", "for the first time", "with great care",
    "under the {tree} tree", "again and again", "until it was dark", "in spite of the weather",
]  # fmt: skip
_FRAMES = [
    "{s} {past} the {x} {where}.",
    "{when}, {s} {past} @a {n_adj} {n} {where}.",
    (
        "{s} wanted to {base} the {y}, but [it was too {n_adj}|there was no time|nobody helped"
        "|the {box} was empty]."
    ),
    "because {c} was {feeling}, {s} [decided|tried|promised] to {base} the {x}.",
    "[while|when] {a_they} was {ing} the {x}, {b} [came in|called|dropped the {y}|began to sing].",
    "[there was|they heard|suddenly came] {sense}, and {s} [turned around|became silent|smiled].",
    "the {x_col} {x} [was|lay|stood] {where}, [next to|under|behind] the {y_col} {y}.",
    "if {c} had not {part} the {y}, {a} would [never|hardly] have been so {feeling2}.",
    '"[do not|please] {base} my {x}," said {b} {adverb}.',
    '"[who|which of you] {past} the {n}?" asked {c}.',
    '"{c} has {food}, but I need @a {n}," [whispered|shouted|explained] {a}.',
    "it [took|needed] {num} [minutes|hours|days] to {base} the {n}, [as|since] it was {n_adj}.",
    "neither {a} nor {b} knew [why|when|where] {c} had {part} the {x}.",
    "{s} [thought about|dreamed of|remembered] {place}, {food} and the {x}.",
    "[slowly|at last|little by little], the {weather} [day|morning] became warmer.",
    "{a}, who {a_trait}, {past} {num} {many} and gave [half|some|most] of them to {b}.",
    (
        "[it seemed|one could see|it was clear] that the {x} [belonged to|was made for|mattered to]"
        " {a}."
    ),
    "{s} was {feeling}, yet {s2} was {feeling2}.",
    "what {a} did not know was that {b} had {part} the {n} {where}.",
    "[although|even though] the {n} was {n_adj}, {s} {past} it {adverb}.",
    "the more {b} talked about {hobby}, the more {feeling2} {a} became.",
    "not far from {place3}, {s} [saw|met|found] {folk}.",
]

_TOPICS = (
    "living in a town", "living in a village", "travelling by train", "travelling by bicycle",
    "reading at night", "getting up early", "keeping a dog", "keeping a cat", "playing chess",
    "swimming in the sea", "working alone", "working together", "cooking at home",
    "writing letters", "walking in the rain", "learning by heart", "having a garden",
)  # fmt: skip
_GOOD = (
    "it is cheap", "it is quiet", "it makes people happy", "it is good for the body",
    "one learns a lot", "one meets new people", "it saves time", "it is good for the mind",
    "everybody can do it",
)  # fmt: skip
_BAD = (
    "it takes too long", "it can be lonely", "it costs money", "it is hard in {season}",
    "one gets tired", "the weather may be bad",
)  # fmt: skip
_NOTICES = [
    """Invitation
What: [a concert with {music}|a game of {sport}|a birthday party|a dinner with {food}]
Who: {a} and {b}
When: {day}, {d} {month}, {h}:{m}
Where: near {place}, {town}
Please bring @a {x} and be there before {h}:{m}. {a} will wait near {place}.""",
    """Lost
One {x_full}, lost on {day} near {place}.
It belongs to {a} {fam}, {n} {tree} Street, {town}.
Whoever finds the {x} gets {price} coins.
Please bring it to {a} or to the {b_job} at the {b_work}.""",
    """For sale
@a {x_full}: {price} coins
@a {y_full}: {n} coins
Both can be seen on {day} in {room}.
Ask {a} {fam}, the {a_job}, at the {a_work} in {town}.
The {x} is {x_adj}, but it works well. The {y} is {y_col} and was made in {month}.""",
    """Timetable from {town} to {town2}
{day}: {h}:{m}, by {vehicle}
Ticket: {price} coins
The {vehicle} leaves near {place} and arrives near {place2}.
In {season} there is no {vehicle} on {day}.
Ask {a} at {place} for the way to {town2}.""",
]


def scene(rng: random.Random) -> str:
    """A loose scene: the same people and objects in clauses drawn from the whole grammar."""
    s = setting(rng)
    parts = []
    for frame in rng.sample(_FRAMES, rng.randint(4, 9)):
        verb = rng.choice([v for v in w.VERBS if v[1] not in ("hid", "drew", "chose")])
        extra = {
            "s": say(rng, rng.choice(_SUBJECTS), **s), "s2": say(rng, "{b}", **s),
            "when": say(rng, rng.choice(_ADVERBIALS), **s),
            "where": say(rng, rng.choice(_ADVERBIALS[:5]), **s),
            "base": verb[0], "past": verb[1], "part": verb[1], "ing": verb[2],
            "n": rng.choice(w.OBJECTS), "n_adj": rng.choice(w.OBJECT_ADJ),
            "num": in_words(rng.randint(2, 30)), "many": rng.choice(w.COUNTABLE),
        }  # fmt: skip
        parts.append(say(rng, frame, **(s | extra)))
    first = say(rng, "[{a}, @a {a_job}, lived near {place}.|It was {weather} on that {day} in"
    " {month}."
                " {a} was at {place}.|{a} had @a {x_full}.|{a} looked at the {y}.]",
                **s)  # fmt: skip
    return prose(rng, ["{text}"], text=" ".join([first, *(p[0].upper() + p[1:] for p in parts)]))


def biography(rng: random.Random) -> str:
    """A life with years that add up."""
    p, s = person(rng), setting(rng)
    born = rng.randint(1700, 1950)
    school, moved, died = rng.randint(5, 8), rng.randint(17, 35), rng.randint(50, 95)
    last = rng.choice(w.FAMILY)
    slots = s | {
        "p": p.name, "they": p.they, "them": p.them, "their": p.their, "l": last, "job": p.job.name,
        "task": p.job.task, "tool": p.job.tool, "born": born, "s": in_words(school),
        "m": in_words(moved), "my": born + moved, "d": in_words(died), "dy": born + died,
        "trait": p.trait, "kids": in_words(rng.randint(2, 9)),
        "rel": rng.choice(w.RELATIONS_F + w.RELATIONS_M),
    }  # fmt: skip
    return prose(rng, [
        "{p} {l} was born in {town} in {born}.",
        ("{their} [mother was @a {b_job}|father was @a {b_job}|family was poor|parents sold"
        " {food}]."),
        "at the age of {s}, {they} [went to school|learned to play the {music}|began {hobby}].",
        ("{p} {trait}, and {their} {rel} [called {them} {b_adj}|was proud of {them}|gave {them} @a"
        " {x}]."),
        "in {my}, when {they} was {m}, {they} moved to {town2} and became @a {job}.",
        ("@a {job} {task}, and {p} [used the same {tool} all {their} life|did it better than"
        " anyone]."),
        ("[{they} married {c} and had {kids} children.|{they} never married.|{c}, @a {c_job}, was"
        " {their} best friend.]"),
        "[{they} is remembered for @a {x_full}.|a street in {town2} has {their} name.|]",
        "{p} {l} died in {dy} at the age of {d}.",
    ], **slots)  # fmt: skip


def history(rng: random.Random) -> str:
    """The history of a town, in order of the years."""
    s = setting(rng)
    years = sorted(rng.sample(range(1100, 1990), 4))
    events = rng.sample([
        "a fire [destroyed|damaged] {place}", "the [first|old] bridge was built",
        "{a} {fam} opened a {work}", "the river [flooded|froze in] {month}",
        "[a storm|a long war] [reached|troubled] the town", "the railway from {town2} arrived",
        "the people built {place2}", "{num} families came from {town2}",
        "[a school|a hospital|a library] was opened near {place3}",
        "@a {x_full} was found in a field",
    ], 4)  # fmt: skip
    lead = [
        "[around|in] {y}, {e}.",
        "in {y}, {e}.",
        "then, in {y}, {e}.",
        "[finally, in|in] {y}, {e}.",
    ]
    slots = s | {
        "fam": rng.choice(w.FAMILY),
        "work": s["a_work"],
        "num": in_words(rng.randint(3, 99)),
    }
    body = [
        say(rng, t.replace("{e}", e), **(slots | {"y": y}))
        for t, e, y in zip(lead, events, years, strict=True)
    ]
    return prose(rng, [
        "[the history of {town}|{town}] [is|has] [long and full of surprises|a long story].", *body,
        f"between the first and the last of these events lie {years[3] - years[0]} years.",
        "today {town} [is known for|lives from] {food} and {flowers}.",
        "[visitors can still see|nothing is left of] {place3}.",
    ], **slots).replace("] is a long", "] has a long")  # fmt: skip


def opinion(rng: random.Random) -> str:
    """Reasons for and against something, then a conclusion."""
    one, two = rng.sample(_TOPICS, 2)
    good, bad = rng.sample(_GOOD, 3), rng.sample(_BAD, 2)
    return prose(rng, [
        (f"[is {one} better than {two}?|what is better, {one} or {two}?|{{a}} and {{b}} could not"
         f" agree about {one}.]"),
        f"[{{a}} thinks that {one} is better.|{{a}}, @a {{a_job}}, likes {one}.]",
        f"first, {good[0]}; second, {good[1]}[, and above all {good[2]}|].",
        f"{{b}} [does not agree|has another opinion]: {bad[0]}[, and {bad[1]}|].",
        f"[that is why|so] {{b}} prefers {two}.",
        "[both are right|each of them has good reasons], [said {c}|thought {c}], the {c_job}.",
        f"[perhaps one should try both|in the end {{a}} tried {two}, too|they are still friends].",
    ], **setting(rng))  # fmt: skip


def notice(rng: random.Random) -> str:
    """An invitation, an advertisement or a lost-property notice with lines of details."""
    s = setting(rng) | {
        "h": rng.randint(7, 21), "m": rng.choice(["00", "15", "30", "45"]), "n": rng.randint(2, 90),
        "d": rng.randint(1, 28), "price": rng.randint(2, 200), "fam": rng.choice(w.FAMILY),
    }  # fmt: skip
    lines = [say(rng, line, **s) for line in rng.choice(_NOTICES).splitlines()]
    return "\n".join(line[0].upper() + line[1:] for line in lines)


def guide(rng: random.Random) -> str:
    """Numbered instructions that keep to the same objects."""
    s = setting(rng)
    steps = [
        "[clean|wash|brush] the {x} with @a [soft|dry|wet] cloth.",
        "put the {x} [on a table|into the {box}] in {room}.",
        "[wait|leave it] for {n} minutes[ and keep it {cond}|].",
        "[tie|fix|attach] the {y} to the {x}.",
        "[check|make sure] that the {x} is not [too {x_adj}|broken|wet].",
        "[ask|call] somebody to hold the {y}.",
        "[paint|colour] it {y_col}[ and let it dry|].",
        "[take|carry] everything to {place}.",
    ]
    picked = [steps[i] for i in sorted(rng.sample(range(len(steps)), rng.randint(4, 7)))]
    slots = s | {"n": rng.randint(2, 60), "cond": rng.choice(["warm", "dry", "cool", "dark"])}
    lines = [f"{i}. {prose(rng, [t], **slots)}" for i, t in enumerate(picked, 1)]
    head = say(rng, "How to [repair|prepare|decorate|protect] @a {x_adj} {x}", **s)
    tail = prose(rng, ["[that is all|now the {x} is ready]. [you needed|this took] {k} steps."],
                 k=in_words(len(picked)), **s)  # fmt: skip
    return "\n".join(
        [head, "You need: " + say(rng, "@a {x}, @a {y} and @a {box}.", **s), *lines, tail]
    )


def riddles(rng: random.Random) -> str:
    """Riddles about animals, jobs and materials with their solutions."""
    out = []
    for _ in range(rng.randint(2, 4)):
        a, j, m = rng.choice(w.ANIMALS), rng.choice(w.JOBS), rng.choice(w.MATERIALS)
        legs = f"{in_words(a.legs)} legs" if a.legs else "no legs"
        ask, answer = rng.choice([
            (f"I have {legs} and {a.cover}. I live in {a.home} and eat {a.food}.", f"@a {a.name}"),
            (f"I work at the {j.place} with @a {j.tool}.", f"@a {j.name}"),
            ((f"I come from {m.source}. I am {m.quality}, and people use me for"
             f" {listing(list(m.things))}."), m.name),
        ])  # fmt: skip
        out.append(say(rng, f"{ask} [What|Who] am I?\nAnswer: {answer}."))
    return "\n".join(out)


def interview(rng: random.Random) -> str:
    """Questions to one person whose answers fit the introduction."""
    p, s, t = person(rng), setting(rng), thing(rng)
    years = rng.randint(2, 50)
    slots = s | {"p": p.name, "they": p.they, "job": p.job.name, "tool": p.job.tool,
    "w": p.job.place,
                 "task": p.job.task, "y": in_words(years), "t": t.full, "tn": t.noun,
                 "start": 2000 - years, "trait": p.trait}  # fmt: skip
    pairs = [
        (
            "How long have you been @a {job}?",
            "For {y} years. I began in {start}, and now it is 2000.",
        ),
        (
            "What do you need for your work?",
            "Most of all @a {tool}[ and patience| and good light|].",
        ),
        ("Where do you work?", "At the {w} in {town}, [near|behind] {place}."),
        ("What do you like to do on {day}?", "I [enjoy|like] {hobby}, [often|always] with {b}."),
        (
            "Is there something you would never sell?",
            "Yes, my {t}. {c} gave me the {tn} in {month}.",
        ),
        (
            "What do your friends say about you?",
            "They say that I am {a_adj}. {b} says I am {b_adj}.",
        ),
        (
            "Do you like {season}?",
            "[Yes, I like it when it is {weather}.|No, in {season} I am often {feeling}.]",
        ),
    ]
    head = prose(rng, ["{p} is @a {job} in {town}.", "{p} {trait}."], **slots)
    rows = [head]
    for q, a in rng.sample(pairs, rng.randint(3, 6)):
        rows += [say(rng, q, **slots), f"{p.name}: {say(rng, a, **slots)}"]
    return "\n".join(rows)
