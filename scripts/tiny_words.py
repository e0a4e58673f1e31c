"""Word lists for the generator of training text (all plain data, no logic)."""

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(",") if part.strip())


@dataclass(frozen=True)
class Animal:
    """Facts about an animal."""

    name: str
    plural: str
    legs: int
    cover: str
    home: str
    food: str
    sound: str
    size: int  # rank, only for comparisons


@dataclass(frozen=True)
class Job:
    """An occupation, its tool, its work place and what it does all day."""

    name: str
    tool: str
    place: str
    task: str


@dataclass(frozen=True)
class Material:
    """A material and the things made of it."""

    name: str
    quality: str
    source: str
    things: tuple[str, ...]


FEMALE = _words("""
Ada Alice Amara Anna Astrid Beatrice Bella Carla Celia Clara Dora Edith Elena Elsa Emma Esther
Fatima Flora Freya Gina Grace Greta Hannah Hazel Helen Ida Ines Irene Iris Ivy Jane Julia June
Karin Kate Laila Lea Lena Lily Lucy Mabel Maria Martha Maya Mina Mira Molly Nadia Nina Nora Olga
Olive Paula Pearl Petra Priya Rosa Ruth Sara Selma Sofia Stella Tara Tess Thea Una Vera Viola
Wanda Yara Yuki Zoe""")
MALE = _words("""
Aaron Adam Alan Albert Amir Anton Arthur Ben Boris Bruno Carl Cyrus Daniel David Dennis Edgar
Eli Emil Eric Felix Finn Frank Fred George Gus Hamid Hans Harry Hugo Ian Isaac Ivan Jack Jacob
Jonas Joseph Karl Kofi Lars Leo Liam Louis Luca Marco Mark Martin Max Milo Nathan Noah Oliver Omar
Oscar Otto Paul Peter Quentin Rafael Ravi Robert Sam Samuel Simon Stefan Tariq Theo Thomas Tim
Tom Victor Walter Will Yusuf""")
FAMILY = _words("""
Abbot Barker Bell Berg Brook Carver Castle Cole Dale Drake Farrow Field Fletcher Ford Gale Grove
Hale Hart Hill Holt Kemp Lake Lane Marsh Mason Moss North Oakes Page Parker Pike Pond Quill Reed
Rivers Rowe Sharp Snow Stone Swift Thorn Turner Underwood Vance Wade Ward Waters Webb West Wood""")
TOWNS = _words("""
Alderbrook Amberley Ashford Birchwell Blackmere Bramley Brightwater Brookfield Cedarton Clayhill
Coldharbour Copperfield Cragmoor Dunmore Eastwick Elmstead Fairhaven Fernhill Foxley Glenrock
Goldcrest Greenwick Harrow Hazelmere Highcliff Holloway Ironbridge Kingsmoor Larkfield Longport
Maplewood Marshgate Millbrook Moorgate Netherby Northaven Oakridge Oldbury Pinehurst Queensferry
Redhill Ridgeway Rosewick Saltmarsh Sandbay Silverton Southport Stonebridge Sunfield Thornbury
Underhill Wavecrest Westbrook Whitecliff Willowdale Windermoor Wolfdale Yarrow""")
PLACES = _phrases("""
the market, the library, the harbour, the railway station, the old mill, the bakery, the school,
the village square, the museum, the park, the river, the lighthouse, the workshop, the farm,
the post office, the castle, the garden, the beach, the forest, the bus stop, the town hall,
the swimming pool, the theatre, the hospital, the church, the bridge, the windmill, the orchard,
the campsite, the mountain hut, the fish market, the playground, the tea house, the pond,
the stable, the bookshop, the cinema, the ferry, the lake, the meadow, the bank, the zoo""")
ROOMS = _phrases("""
the kitchen, the attic, the cellar, the hall, the bedroom, the garage, the bathroom, the study,
the living room, the shed, the pantry, the barn, the greenhouse, the laundry room, the office,
the dining room, the balcony, the storeroom""")
CONTAINERS = _words("""
box drawer basket bag chest cupboard jar trunk suitcase bucket sack pocket backpack crate tin
barrel cabinet wardrobe envelope purse toolbox pot bin locker""")
OBJECTS = _words("""
key coin lamp book map ring watch hat scarf kite ball whistle flute drum letter mirror compass
candle knife spoon cup plate bottle blanket pillow brush comb button ribbon rope hammer
lantern telescope pencil notebook stamp umbrella glove boot coat bell shell stone feather doll
puzzle clock camera radio violin ticket photograph necklace bracelet painting vase teapot kettle
ladder saw needle torch flag mug shovel crown medal magnet marble robot toy diary statue carpet
bowl broom chair stool wallet parcel sled wheel globe""")
COLOURS = _words("""
red blue green yellow white black brown grey purple orange pink golden silver violet scarlet
cream turquoise""")
OBJECT_ADJ = _words("""
old new small large heavy light tiny round square broken shiny dusty wooden rusty beautiful
ugly strange plain cheap expensive simple thin thick long short soft hard smooth rough clean
dirty warm cold empty precious lovely useful ancient modern crooked polished painted cracked""")
PERSON_ADJ = _words("""
kind brave clever patient shy curious honest cheerful quiet careful generous lazy proud gentle
stubborn friendly serious lonely polite funny wise young busy bold calm clumsy greedy hopeful
loyal nervous quick strong thoughtful""")
FEELINGS = _words("""
happy sad tired angry worried proud surprised excited relieved hungry afraid nervous grateful
calm pleased bored confused ashamed cheerful lonely thirsty delighted disappointed""")
ADVERBS = _words("""
slowly quickly quietly carefully gently suddenly happily sadly loudly softly patiently proudly
nervously calmly politely eagerly""")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words("""
January February March April May June July August September October November December""")
SEASONS = ("spring", "summer", "autumn", "winter")
WEATHER = _phrases("""
sunny, rainy, cloudy, windy, foggy, snowy, stormy, clear, misty, frosty, humid, mild""")
VEHICLES = _phrases("""
train, bus, bicycle, boat, car, ferry, horse cart, tram, truck, canoe, taxi, motorcycle""")
INSTRUMENTS = _words("""
piano violin flute drum guitar trumpet cello harp clarinet accordion banjo organ""")
SPORTS = _words("""
football tennis chess swimming rowing hockey cycling skating climbing fencing archery sailing
basketball running badminton""")
HOBBIES = _phrases("""
reading, painting, fishing, gardening, cooking, singing, dancing, collecting stamps,
building model ships, watching birds, knitting, playing chess, taking photographs, baking bread,
writing poems, hiking, repairing clocks, drawing maps, learning languages, carving wood""")
FRUIT = _words("""
apple pear plum lemon orange banana peach cherry melon grape fig apricot mango lime coconut""")
FRUIT_PLURAL = _words("""
apples pears plums lemons oranges bananas peaches cherries melons grapes figs apricots mangoes
limes coconuts""")
VEGETABLES = _words("""
carrots onions potatoes tomatoes beans peas cabbages leeks turnips cucumbers peppers radishes
mushrooms pumpkins beets""")
GROCERIES = _phrases("""
bread, milk, cheese, butter, rice, flour, sugar, salt, tea, coffee, honey, eggs, soup, jam, oil,
vinegar, noodles, yoghurt, chocolate, soap, candles, matches, paper towels, cereal, nuts, raisins,
cinnamon, mustard, juice, biscuits""")
COUNTABLE = _words("""
apples pears books stamps coins marbles buttons shells candles cups eggs stones tickets pencils
flowers cards keys letters boxes chairs plates bricks nails ribbons beads balls kites bottles
lamps stickers cookies seeds sheep hens ducks trees windows lanterns""")
TRAITS = _phrases("""
never gave up, always told the truth, liked to help others, could not sit still,
was afraid of the dark, loved old stories, counted everything, talked to every animal,
remembered every name, woke before the sun, wanted to see the sea, collected strange stones,
sang while working, laughed at every joke, always arrived too early, often forgot the time,
trusted everyone, noticed small things, asked many questions, saved every coin""")
RELATIONS_F = _words("sister mother aunt grandmother daughter niece cousin friend neighbour")
RELATIONS_M = _words("brother father uncle grandfather son nephew cousin friend neighbour")
TREES = _words("oak pine birch willow maple elm ash cedar beech poplar chestnut linden")
FLOWERS = _phrases("""
roses, tulips, daisies, lilies, sunflowers, poppies, violets, daffodils, bluebells, marigolds""")
VERBS: tuple[tuple[str, str, str], ...] = tuple(
    (a, b, c)
    for a, b, c in (
        part.split("/")
        for part in _words("""
        find/found/finding lose/lost/losing carry/carried/carrying buy/bought/buying
        sell/sold/selling clean/cleaned/cleaning paint/painted/painting hide/hid/hiding
        repair/repaired/repairing borrow/borrowed/borrowing hold/held/holding
        wrap/wrapped/wrapping open/opened/opening examine/examined/examining
        polish/polished/polishing draw/drew/drawing choose/chose/choosing
        bring/brought/bringing drop/dropped/dropping lift/lifted/lifting
        measure/measured/measuring weigh/weighed/weighing admire/admired/admiring
        keep/kept/keeping copy/copied/copying move/moved/moving touch/touched/touching""")
    )
)

_JOBS = """
baker|rolling pin|bakery|bakes bread before sunrise
fisher|net|harbour|catches fish on the open water
teacher|piece of chalk|school|explains things to children
doctor|stethoscope|hospital|looks after sick people
carpenter|saw|workshop|builds tables and chairs
farmer|plough|farm|grows wheat and feeds the animals
tailor|needle|tailor shop|sews coats and dresses
smith|hammer|forge|shapes hot iron
painter|brush|studio|paints pictures of the hills
gardener|spade|garden|plants flowers and trims hedges
librarian|catalogue|library|helps people to find books
pilot|compass|airport|flies people over the mountains
sailor|rope|port|crosses the sea in every season
cook|ladle|kitchen|prepares soup for many guests
clockmaker|tiny screwdriver|clock shop|repairs watches and clocks
shepherd|crook|meadow|guards the sheep at night
postman|bag|post office|brings letters to every house
musician|violin|concert hall|plays for the whole town
builder|trowel|building site|lays bricks in straight rows
nurse|thermometer|clinic|takes care of patients
potter|wheel|pottery|turns clay into bowls
miller|millstone|mill|grinds grain into flour
beekeeper|smoker|orchard|collects honey from the hives
scientist|microscope|laboratory|tests new ideas
weaver|loom|weaving house|makes cloth from wool
photographer|camera|photo studio|takes pictures of families
driver|map|bus station|takes people from town to town
judge|law book|court|listens to both sides
writer|pen|quiet attic|writes stories about the past
barber|pair of scissors|barber shop|cuts hair and tells jokes
miner|pickaxe|mine|digs for coal under the ground
vet|small lamp|animal clinic|heals cats and dogs
plumber|wrench|workshop|repairs leaking pipes
astronomer|telescope|observatory|studies the stars
firefighter|hose|fire station|puts out fires
florist|ribbon|flower shop|ties bunches of roses
"""
JOBS = tuple(Job(*line.split("|")) for line in _JOBS.strip().splitlines())

_ANIMALS = """
cat|cats|4|fur|houses|mice|meow|3
dog|dogs|4|fur|houses|meat|bark|5
horse|horses|4|short hair|stables|hay|neigh|9
cow|cows|4|short hair|meadows|grass|moo|9
sheep|sheep|4|wool|meadows|grass|bleat|6
goat|goats|4|hair|hills|leaves|bleat|6
pig|pigs|4|bristles|farms|roots|grunt|7
hen|hens|2|feathers|farmyards|grain|cluck|3
duck|ducks|2|feathers|ponds|water plants|quack|3
owl|owls|2|feathers|hollow trees|mice|hoot|3
eagle|eagles|2|feathers|mountains|rabbits|screech|5
sparrow|sparrows|2|feathers|hedges|seeds|chirp|1
raven|ravens|2|feathers|rocky hills|almost anything|croak|3
penguin|penguins|2|feathers|cold coasts|fish|squawk|5
swan|swans|2|feathers|lakes|water plants|hiss|5
fox|foxes|4|fur|dens|mice and berries|yelp|4
wolf|wolves|4|fur|forests|deer|howl|6
bear|bears|4|fur|caves|fish and honey|growl|9
rabbit|rabbits|4|fur|burrows|clover|squeak|2
mouse|mice|4|fur|holes|seeds|squeak|1
squirrel|squirrels|4|fur|trees|nuts|chatter|2
hedgehog|hedgehogs|4|spines|leaf piles|beetles|snuffle|2
deer|deer|4|short hair|forests|leaves|bellow|8
elephant|elephants|4|thick skin|grasslands|leaves and bark|trumpet|10
lion|lions|4|fur|grasslands|zebras|roar|8
tiger|tigers|4|striped fur|jungles|deer|roar|8
monkey|monkeys|4|fur|jungles|fruit|chatter|4
camel|camels|4|hair|deserts|thorny plants|grumble|9
frog|frogs|4|smooth skin|ponds|flies|croak|1
turtle|turtles|4|a hard shell|warm seas|sea grass|hiss|4
lizard|lizards|4|scales|dry rocks|insects|hiss|1
crocodile|crocodiles|4|scales|rivers|fish|hiss|8
seal|seals|0|thick fur|icy shores|fish|bark|7
whale|whales|0|smooth skin|oceans|tiny shrimps|sing|11
dolphin|dolphins|0|smooth skin|seas|fish|click|7
bee|bees|6|tiny hairs|hives|nectar|buzz|0
ant|ants|6|a hard shell|nests|seeds|rustle|0
cricket|crickets|6|a hard shell|meadows|leaves|chirp|0
spider|spiders|8|tiny hairs|webs|flies|rustle|0
donkey|donkeys|4|short hair|farms|hay|bray|8
"""


def _animal(line: str) -> Animal:
    name, plural, legs, cover, home, food, sound, size = line.split("|")
    return Animal(name, plural, int(legs), cover, home, food, sound, int(size))


ANIMALS = tuple(_animal(line) for line in _ANIMALS.strip().splitlines())

_MATERIALS = """
wood|strong and easy to cut|trees|tables, doors, boats
glass|clear but easy to break|melted sand|windows, bottles, lenses
iron|hard and heavy|ore from the ground|nails, gates, anchors
wool|soft and warm|sheep|scarves, socks, blankets
paper|thin and light|crushed wood|books, letters, maps
clay|soft until it is fired|river banks|pots, bricks, tiles
leather|tough and flexible|animal skin|shoes, belts, saddles
cotton|light and cool|the seeds of a plant|shirts, sheets, bandages
gold|shiny and never rusty|mines and rivers|rings, crowns, coins
rubber|stretchy and waterproof|the juice of a tree|tyres, boots, balls
wax|soft and easy to melt|bees|candles, seals, polish
stone|hard and long lasting|quarries|walls, bridges, towers
copper|reddish and good at carrying current|ore|wires, pipes, kettles
silk|smooth and shiny|the threads of a moth|ties, dresses, flags
"""


def _material(line: str) -> Material:
    name, quality, source, things = line.split("|")
    return Material(name, quality, source, _phrases(things))


MATERIALS = tuple(_material(line) for line in _MATERIALS.strip().splitlines())

CAPITALS: dict[str, str] = {
    pair.split(":")[0]: pair.split(":")[1]
    for pair in _phrases("""
    France:Paris, Italy:Rome, Spain:Madrid, Germany:Berlin, Japan:Tokyo, Egypt:Cairo,
    Norway:Oslo, Sweden:Stockholm, Finland:Helsinki, Greece:Athens, Portugal:Lisbon,
    Poland:Warsaw, Austria:Vienna, Hungary:Budapest, Ireland:Dublin, Denmark:Copenhagen,
    Canada:Ottawa, Peru:Lima, Chile:Santiago, Cuba:Havana, Kenya:Nairobi, India:New Delhi,
    China:Beijing, Russia:Moscow, Turkey:Ankara, Thailand:Bangkok, Australia:Canberra,
    Iceland:Reykjavik, Belgium:Brussels, Ghana:Accra, Morocco:Rabat, Vietnam:Hanoi""")
}
OPPOSITES: dict[str, str] = {
    pair.split(":")[0]: pair.split(":")[1]
    for pair in _words("""
    hot:cold big:small fast:slow high:low old:young rich:poor light:dark early:late wet:dry
    full:empty hard:soft open:closed strong:weak long:short happy:sad loud:quiet heavy:light
    near:far sweet:sour clean:dirty wide:narrow deep:shallow thick:thin brave:afraid up:down
    first:last inside:outside always:never day:night summer:winter""")
}
PLURALS: dict[str, str] = {
    pair.split(":")[0]: pair.split(":")[1]
    for pair in _words("""
    child:children foot:feet tooth:teeth goose:geese mouse:mice leaf:leaves knife:knives
    box:boxes city:cities baby:babies man:men woman:women sheep:sheep fish:fish wolf:wolves
    potato:potatoes bus:buses story:stories cherry:cherries shelf:shelves dish:dishes key:keys
    church:churches loaf:loaves""")
}
NUMBERS = _words("""
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen""")
TENS = _words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")

SENSES = _phrases("""
the smell of fresh bread, the sound of distant bells, the cry of gulls, a cool wind,
the taste of salt in the air, the light of many lamps, the noise of carts, the scent of pine,
soft music from an open window, the hum of bees, smoke from the chimneys,
the laughter of children, the splash of oars, the warmth of the sun""")
FOLK = _phrases("""
an old woman with a basket, two boys with a kite, a man selling chestnuts, a girl on a bicycle,
three sailors with loud voices, a boy feeding pigeons, a woman painting a door,
a man with a long beard, a family sharing a picnic, a tall stranger in a grey coat,
a street musician with a trumpet, twins in yellow raincoats, a gardener cutting roses,
a soldier reading a letter, a grandfather telling stories""")
DISHES: dict[str, tuple[str, ...]] = {
    "vegetable soup": ("carrots", "onions", "potatoes", "salt", "water"),
    "pancakes": ("flour", "milk", "eggs", "butter", "sugar"),
    "apple pie": ("apples", "flour", "butter", "sugar", "cinnamon"),
    "tomato salad": ("tomatoes", "onions", "oil", "vinegar", "salt"),
    "rice pudding": ("rice", "milk", "sugar", "cinnamon", "raisins"),
    "bean stew": ("beans", "tomatoes", "peppers", "onions", "oil"),
    "honey bread": ("flour", "honey", "eggs", "nuts", "butter"),
    "mushroom noodles": ("noodles", "mushrooms", "butter", "salt", "cheese"),
    "fruit salad": ("apples", "pears", "oranges", "honey", "nuts"),
    "potato cakes": ("potatoes", "eggs", "flour", "salt", "oil"),
    "lemon cake": ("lemons", "flour", "sugar", "eggs", "butter"),
    "pumpkin soup": ("pumpkins", "onions", "milk", "salt", "butter"),
}
EXPLANATIONS: dict[str, list[str]] = {
    "why it rains": [
        "the sun [warms|heats] the sea, and some water [rises|goes up] into the air as vapour.",
        "high up it is [cold|cooler], so the vapour turns into tiny drops.",
        "[many drops|the drops] together [form|make] a cloud.",
        "when the drops become too heavy, they fall [down|to the ground] as rain.",
    ],
    "why there is day and night": [
        "the earth [turns|spins] around itself once in twenty-four hours.",
        "the side that faces the sun has day, and the other side has night.",
        (
            "[in the morning|at sunrise] our side turns towards the sun, and"
            " [in the evening|at sunset] it turns away."
        ),
    ],
    "how bread is made": [
        "first you mix flour, water, salt and yeast.",
        "then you [knead|work] the dough [for ten minutes|until it is smooth].",
        "the yeast makes small bubbles of gas, so the dough rises.",
        "after an hour the bread goes into the hot oven and gets a brown crust.",
    ],
    "how plants grow": [
        "a seed needs water and warmth to [wake up|start growing].",
        "the root goes down and drinks water; the stem goes up to the light.",
        "with light, water and air the green leaves make sugar.",
        (
            "[later the plant has flowers|then flowers open], and the flowers become fruit with new"
            " seeds."
        ),
    ],
    "why ice floats": [
        "when water freezes, it [expands|needs more space].",
        "so a piece of ice is lighter than the same amount of water.",
        "that is why ice floats on a lake and fish can live [below|under] it.",
    ],
    "how a lighthouse helps ships": [
        "a lighthouse stands [on a rock|near the coast] and has a strong lamp.",
        "at night sailors see the light from far away.",
        "they know where the dangerous rocks are and [steer away|keep their distance].",
    ],
    "how bees make honey": [
        "bees visit flowers and collect sweet nectar.",
        "they carry it [home|back] to the hive.",
        "there the nectar becomes thick because the bees fan it with their wings.",
        "the thick nectar is honey, which feeds the bees in winter.",
    ],
    "why the moon changes its shape": [
        "the moon does not shine by itself; it [reflects|sends back] the light of the sun.",
        "it travels around the earth in about one month.",
        "we see only the lit part, so the moon [looks|seems] full, half or thin.",
    ],
    "how a candle burns": [
        "the flame melts the wax [near the wick|at the top].",
        "the wick draws up the liquid wax, which turns into gas in the heat.",
        "the gas burns and gives light, and the candle gets shorter.",
    ],
    "how a bicycle works": [
        "you push the pedals with your feet.",
        "the pedals turn a wheel with teeth, and a chain carries the turning to the back wheel.",
        "the brakes press against the wheel [to slow it down|when you want to stop].",
    ],
    "why we see a rainbow": [
        "white sunlight is a mix of all colours.",
        "inside a drop of rain the light bends, and each colour bends a little differently.",
        "so we see red outside and violet inside, with yellow and green between.",
        "you must stand with the sun behind you [to see it|and the rain in front of you].",
    ],
    "how a magnet works": [
        "a magnet has a north pole and a south pole.",
        "different poles attract each other, and equal poles push each other away.",
        "iron is attracted by a magnet, but wood, glass and paper are not.",
    ],
    "how birds fly": [
        "birds have light bones and strong muscles.",
        "when they beat their wings, the air is pushed down and the bird goes up.",
        "the tail helps them to [steer|turn] and to land.",
    ],
    "why leaves fall in autumn": [
        "in autumn the days get shorter and colder.",
        "the tree stops making the green colour, so we see yellow and red.",
        "without leaves the tree [loses less water|saves water] in winter.",
    ],
    "how a bridge stands": [
        "the weight of the cars presses on the bridge.",
        "pillars or arches carry the weight [down|into the ground].",
        "long bridges hang from strong cables between two towers.",
    ],
    "how letters reach us": [
        "you write an address, put a stamp on the envelope and drop it into a letter box.",
        "in the sorting room the letters are ordered by town.",
        "a train or a truck takes them there, and the postman brings them to the house.",
    ],
    "why the sea is salty": [
        "rivers wash tiny amounts of salt out of the rocks.",
        "they carry the salt [into|down to] the sea.",
        "when the water rises into the air, the salt stays behind.",
    ],
    "how a thermometer works": [
        "a thermometer has a thin glass tube with a liquid.",
        "when it is warm, the liquid expands and rises; when it is cold, it sinks.",
        "the numbers next to the tube tell us the temperature.",
    ],
    "how a computer stores text": [
        "a computer knows only numbers, so every letter has a number.",
        "the letter A is 65 and the letter B is 66.",
        "each number is stored as a row of bits, and a bit is zero or one.",
        "eight bits make one byte.",
    ],
    "why we sleep": [
        "the body and the mind need rest.",
        "during sleep the muscles recover and the brain sorts what we have learned.",
        "children need about ten hours of sleep, and adults about eight.",
    ],
    "how an echo arises": [
        "sound moves through the air like a wave.",
        "a wall or a cliff throws the wave back.",
        "a moment later we hear our own voice again.",
        "the farther the wall, the later the echo.",
    ],
}
