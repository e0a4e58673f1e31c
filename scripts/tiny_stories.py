"""Stories, dialogues, letters and diaries whose later sentences refer back to earlier ones."""

import random

import tiny_words as w
from tiny_grammar import in_words, listing, names, objects, people, prose, say, thing

_OPENINGS = [
    (
        "[once|long ago|one {season}|many years ago], there was @a {a_adj} {a_job}"
        " [called|named] {a} who lived in {town}."
    ),
    "{a} was @a {a_adj} {a_job} from {town}.",
    "in the [town|village] of {town} lived {a}, @a {a_job} who {a_trait}.",
    "everyone in {town} knew {a}, the {a_adj} {a_job}.",
    "on @a {weather} {day} in {month}, {a} [walked|went|hurried|came] to {place}.",
    "{a} and {b} were [old friends|neighbours|good friends|cousins|classmates] in {town}.",
    "it was @a {weather} [morning|afternoon|evening] in {town}, and {a} felt {feeling}.",
    "[people said|it was well known|nobody doubted] that {a} of {town} {a_trait}.",
]
_ENDINGS = [
    "from that day on, {a} never forgot the {x}.",
    "that [night|evening], {a} slept [well|deeply|like a stone].",
    "{a} and {b} [laughed|smiled] and walked home [together|side by side|through the rain].",
    "and the {x_col} {x} stayed with {a} for many years.",
    'later {a} said, "[Sometimes a small thing matters most|A friend is worth more than'
    " gold|We should do this again|I learned something today]" + '."',
    "in {town}, people still [tell|remember] the story of {a} and the {x_adj} {x}.",
    "{b} told everyone in {town} what {a} had done.",
    "after that, {a} was [no longer|never again] {feeling}.",
    "what a [day|strange day|wonderful day] it had been for {a}!",
]
_ASIDES = [
    "the air was full of {sense}.",
    "there was {sense}, and {a} [stopped|waited] for a moment.",
    "on the way {a_they} [met|passed|greeted] {folk}.",
    "{folk} [watched|looked up|smiled] as {a} went by.",
    "{a} was @a {a_adj} [person|soul] and {a_trait}.",
    "outside it was {weather}, so {a_they} put on @a {colour} coat.",
    "{b}, who {b_trait}, [waited|listened|nodded] {adverb}.",
    "@a {animal} [sat|waited|slept] near {place2} and [looked|stared] at {a_them}.",
]


def setting(rng: random.Random) -> dict[str, str]:
    """Slots every story can use: three characters, two objects, places, weather, feelings."""
    a, b, c = people(rng, 3)
    place, place2, place3 = rng.sample(w.PLACES, 3)
    room, room2, room3 = rng.sample(w.ROOMS, 3)
    box, box2 = rng.sample(w.CONTAINERS, 2)
    first, second = thing(rng), thing(rng)
    while second.noun == first.noun or second.colour == first.colour:
        second = thing(rng)
    town, town2 = rng.sample(w.TOWNS, 2)
    return (
        names(a, "a") | names(b, "b") | names(c, "c") | objects(first, "x") | objects(second, "y")
    ) | {
        "place": place, "place2": place2, "place3": place3,
        "room": room, "room2": room2, "room3": room3, "box": box, "box2": box2,
        "town": town, "town2": town2, "season": rng.choice(w.SEASONS),
        "day": rng.choice(w.DAYS), "month": rng.choice(w.MONTHS),
        "weather": rng.choice(w.WEATHER), "feeling": rng.choice(w.FEELINGS),
        "feeling2": rng.choice(w.FEELINGS), "adverb": rng.choice(w.ADVERBS),
        "vehicle": rng.choice(w.VEHICLES), "animal": rng.choice([x.name for x in w.ANIMALS]),
        "sense": rng.choice(w.SENSES), "folk": rng.choice(w.FOLK),
        "colour": rng.choice(w.COLOURS), "hobby": rng.choice(w.HOBBIES),
        "food": rng.choice(w.GROCERIES), "fruit": rng.choice(w.FRUIT),
        "tree": rng.choice(w.TREES), "flowers": rng.choice(w.FLOWERS),
        "music": rng.choice(w.INSTRUMENTS), "sport": rng.choice(w.SPORTS),
    }  # fmt: skip


def framed(rng: random.Random, middle: list[str], slots: dict[str, str]) -> str:
    """A story with an opening, the given middle with asides between, and an ending."""
    body = list(middle)
    for aside in rng.sample(_ASIDES, rng.randint(0, 2)):
        body.insert(rng.randint(0, len(body)), aside)
    return prose(rng, [rng.choice(_OPENINGS), *body, rng.choice(_ENDINGS)], **slots)


def lost_and_found(rng: random.Random) -> str:
    """Something is put away, forgotten, looked for and found where it was put."""
    return framed(rng, [
        "{a} owned @a {x_full} and [kept|hid|put] it in the {box} in {room}.",
        ("[one {day}|the next week|a month later], {a} [wanted|needed] the {x},"
        " but {a_they} could not remember where it was."),
        "{a_they} looked [for it|everywhere] in {room2}, but found only @a {y_full}.",
        '"[have you seen|do you know where to find] my {x_col} {x}?" {a} asked {b}.',
        ('["no," said {b}, "but did you look in {room}?"'
        "|{b} [shook {b_their} head|thought for a while] and pointed to {room}.]"),
        "So {a} went to {room}, opened the {box}, and there [was|lay] the {x_col} {x}.",
        "{a_they} was so {feeling2} that {a_they} gave {b} the {y_col} {y}.",
    ], slots=setting(rng))  # fmt: skip


def passed_on(rng: random.Random) -> str:
    """An object goes from hand to hand; the text asks who has it in the end."""
    return framed(rng, [
        "{a} had @a {x_full}, and {b} had @a {y_full}.",
        "at {place}, {a} [gave|handed|lent] the {x} to {b}.",
        ("[later|after lunch|the next day], {b} [gave|passed|brought] the {x} to {c}"
        " [near|at|behind] {place2}."),
        "[{b} kept the {y}|the {y} stayed with {b}].",
        "who has the {x} now? {c} has the {x_col} {x}, and {b} still has the {y_col} {y}.",
        "{c} [thanked {b} and put|smiled and put] the {x} in @a {box}.",
    ], slots=setting(rng))  # fmt: skip


def journey(rng: random.Random) -> str:
    """A character travels, works, meets somebody and comes back."""
    return framed(rng, [
        "{a} [packed|filled] @a {box} with {food}, @a {x_full} and @a {y_full}.",
        "then {a_they} [travelled by|went by] {vehicle} from {town} to {town2}.",
        "in {town2}, {a_they} met {b}, @a {b_adj} {b_job} who {b_task}.",
        '"[what do you have|what is] in the {box}?" asked {b}.',
        '"{food}, @a {x} and @a {y}," [said|answered] {a}.',
        ("{b} needed the {x}, so {a} [sold|gave|lent] it to {b_them} [for|and received]"
        " [a bag of coins|three silver coins|a warm meal|a good map]."),
        "when {a} came back to {town}, only the {y} was left in the {box}.",
    ], slots=setting(rng))  # fmt: skip


def mystery(rng: random.Random) -> str:
    """A theft that is solved by the colour of a second object."""
    return framed(rng, [
        "one [morning|evening], the {x_full} was [gone|missing] from {room}.",
        '"[who took|who has] my {x}?" [cried|asked] {a}, who was {feeling}.',
        "on the floor {a_they} found @a {y_col} {y}.",
        ("{a} [remembered|knew] that {b} the {b_job} had @a {y_col} {y}, but {c} the {c_job}"
        " did not."),
        "so {a} [went to|ran to] the {b_work} and [asked|spoke to] {b}.",
        '"I am sorry," said {b}. "I [only borrowed|needed] the {x}[ for a day| for my work|]."',
        "{b} [gave back|returned] the {x}, and {a} gave {b} the {y}.",
        "{c} was {feeling2} when {c_they} heard about it.",
    ], slots=setting(rng))  # fmt: skip


def earned(rng: random.Random) -> str:
    """Work, wages and a purchase, with correct sums in words."""
    days, pay = rng.randint(2, 9), rng.randint(2, 12)
    total = days * pay
    price = rng.randint(2, total - 2) if total > 4 else 2
    sums = {
        "days": in_words(days), "pay": in_words(pay), "total": in_words(total),
        "price": in_words(price), "left": in_words(total - price),
    }  # fmt: skip
    return framed(rng, [
        "{a} [worked|helped] at the {b_work} for {days} days and [got|earned] {pay} coins a day.",
        "{b}, the {b_job}, [counted the money {adverb}|was happy with the work].",
        "{days} times {pay} is {total}, so {a} [had|received] {total} coins.",
        "at {place}, {a_they} saw @a {x_full} that cost {price} [coins|silver coins].",
        "{a} bought the {x} and [had|kept] {left} [coins left|coins].",
        "with the {left} coins {a_they} [wanted|planned] to go to {town2} by {vehicle}.",
    ], slots=setting(rng) | sums)  # fmt: skip


def fable(rng: random.Random) -> str:
    """Two animals, a contest and a moral."""
    one, two = rng.sample(w.ANIMALS, 2)
    slots = setting(rng) | {
        "one": one.name, "two": two.name, "home": one.home, "home2": two.home,
        "eats": one.food, "eats2": two.food, "pa": rng.choice(w.PERSON_ADJ),
        "pa2": rng.choice(w.PERSON_ADJ),
    }  # fmt: skip
    return prose(rng, [
        ("[once|long ago|in a far country], @a {pa} {one} and @a {pa2} {two} [met|lived] near"
        " {place}."),
        'the {one} [said|boasted|whispered], "I [eat|love] {eats}. What do you eat?"',
        '"I eat {eats2}," [answered|said] the {two} {adverb}.',
        ("[they decided to|so they agreed to] [race to|look for food near|hide something at]"
        " {place2}."),
        ("the {pa} {one} [ran|hurried] ahead, but the {pa2} {two} [thought first|took its time"
        "|asked @a {animal} for help]."),
        ("near {place2} the {one} [fell into a hole|lost the way|grew tired|began to dream of"
        " {eats}]."),
        "the {two} [came back and helped|pulled the {one} out|shared its {food}].",
        ('"thank you," said the {one}. "[I was too proud|I should have listened|you are a true'
        ' friend]."'),
        ("[the lesson is simple|this is why people say|remember]: [it is better to be"
        " {pa2} than fast|whoever helps is never alone|do not laugh at others"
        "|even @a {one} needs a friend]."),
    ], **slots)  # fmt: skip


def dialogue(rng: random.Random) -> str:
    """A conversation in lines of speech about an object, a plan or a way."""
    s = setting(rng)
    scripts = [
        ["Good [morning|evening], {b}. Have you seen my {x_full}?",
         "Your {x}? I [saw|put] it in {room}, in the {box}.",
         "I [looked|was] in {room2}, but not in {room}.",
         "Then look in the {box}. It is {x_col}, isn't it?",
         "Yes, @a {x_col} one. [Thank you|How kind of you], {b}!", "You are welcome, {a}."],
        ["Excuse me, how do I get to {place}?",
         "Go [straight on|left] past {place2}, then turn [left|right] at {place3}.",
         "So first past {place2} and then to {place3}?",
         "Exactly. {place} is [right behind it|next to it].",
         "Is it far?", ("No, [five|ten|twenty] minutes on foot. [Or take the {vehicle}.|Good"
         " luck!]")],
        ["What will you do on {day}?", "I will [visit|meet] {c} in {town2}. {c} likes {hobby}.",
         "How will you get to {town2}?", "By {vehicle}. Would you like to come, {a}?",
         "[Yes, gladly|I would love to]. I will bring {food} and @a {x}.",
         "Wonderful. Then {c} will be {feeling}. See you on {day}!"],
        ["I would like to buy @a {x}, please.", "We have @a {x_col} one and @a {y_col} one.",
         "Which one is [better|cheaper]?", "The {x_col} {x} is {x_adj}, the other is not.",
         "Then I take the {x_col} one. I also need {food}.",
         "Here you are: {food} and @a {x_col} {x}."],
        ["Why are you so {feeling}, {b}?", "Because I lost the {y_full} that {c} gave me.",
         "Where did you have the {y} last?", "At {place}, I think. Or was it at {place2}?",
         "Let us look at {place} first and then at {place2}.", "You are @a {a_adj} friend, {a}."],
        ["Do you play the {music}, {b}?", "No, but I [like|enjoy] {sport}. And you?",
         "I play the {music} every {day}.", ("Then you must know {c}, the {c_job}. {c} plays it"
         " too."),
         "Of course! {c} taught me.", "Really? {c} never told me that {c_they} knows you."],
    ]  # fmt: skip
    lines = [say(rng, line, **s) for line in rng.choice(scripts)]
    lines = [line[0].upper() + line[1:] for line in lines]
    turns = [f"{s['a'] if i % 2 == 0 else s['b']}: {line}" for i, line in enumerate(lines)]
    head = prose(rng, ["[{a} and {b} meet at {place}.|{a} talks to {b}, the {b_job}.|]"], **s)
    return "\n".join([head, *turns] if head else turns)


def letter(rng: random.Random) -> str:
    """A letter whose farewell and news belong to the same people."""
    s = setting(rng) | {"n": in_words(rng.randint(2, 20))}
    body = [
        "[thank you for|I was happy about] your [letter|parcel] and the {x_full}.",
        "[we are all well|life is quiet] here in {town}. The weather has been {weather}.",
        "last {day} I went to {place} with {c} and saw {folk}.",
        "{c} still works as @a {c_job} and [sends you greetings|often asks about you].",
        "I have put the {x} in {room}, next to the {y_col} {y}.",
        "do you remember the {n} {flowers} we planted? They [bloom|grow] near the {tree} tree.",
        "[could you|would you] bring me {food} when you come by {vehicle} in {month}?",
        "in {town2} they say that {c} is [the best {c_job} of all|as {c_adj} as ever].",
        "I am [learning|trying] {hobby} now, and I feel {feeling}.",
    ]
    keep = sorted(rng.sample(range(len(body)), rng.randint(4, 7)))
    text = prose(rng, [body[i] for i in keep], **s)
    close = rng.choice(["Yours", "With love", "Best wishes", "Your friend", "Warm greetings"])
    head = f"{s['town']}, {rng.randint(1, 28)} {s['month']}\n\nDear {s['b']},"
    return f"{head}\n\n{text}\n\n{close},\n{s['a']}"


def diary(rng: random.Random) -> str:
    """A few days of a diary; each day remembers the day before."""
    start, entries = rng.randrange(7), []
    s = setting(rng)
    last = ""
    for step in range(rng.randint(2, 4)):
        new = setting(rng) | {"b": s["b"], "b_they": s["b_they"], "last": last, "x": s["x"]}
        body = [
            "[today was|it was] @a {weather} day, and I [felt|was] {feeling}.",
            "yesterday I was at {last}, today I went to {place}." if last else "I went to {place}.",
            (
                "[there I|I] [met|talked to] {b}, who [showed me @a {y_full}|talked about {hobby}"
                "|gave me @a {fruit}]."
            ),
            "[we ate {food}|I bought {food}] and [listened to|noticed] {sense}.",
            "[the {x} is still in {room}|I cleaned the {x}|I thought about the {x}].",
        ]
        last = new["place"]
        entries.append(f"{w.DAYS[(start + step) % 7]}. {prose(rng, body, **new)}")
    return "\n".join(entries)


def place_description(rng: random.Random) -> str:
    """A town with its places, people and seasons."""
    s = setting(rng) | {"n": in_words(rng.randint(2, 90)), "all": listing(rng.sample(w.PLACES, 3))}
    return prose(rng, [
        ("{town} is @a [small|quiet|busy|charming|windy|lively] [town|village] [by the sea|in the"
        " hills"
        "|near {town2}|beside a wide river|at the edge of the forest]."),
        "[about {n} families live|some {n} houses stand] [there|in its narrow streets].",
        "visitors [come to see|like] {all}.",
        "in {season}, you notice {sense}, and {flowers} grow along the road.",
        ("every {day} there is [a market|music|a small fair] near {place}, where {a} the {a_job}"
        " [sells {food}|plays the {music}|tells stories]."),
        "{folk} [can often be seen|is a common sight] [there|near {place2}].",
        ("the [oldest|tallest] [house|building|tower] of {town} is near {place3}; it is {x_adj} and"
        " {x_col}."),
        "from {town} you can go to {town2} by {vehicle}.",
        "people here say that {a} {a_trait}.",
    ], **s)  # fmt: skip


STORIES = (lost_and_found, passed_on, journey, mystery, earned, fable)
